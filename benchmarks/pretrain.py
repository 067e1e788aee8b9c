"""Training speed of the small network on this machine, beside the same step with PyTorch's fused attention.

    python -m benchmarks.pretrain [--rounds 7]

ViT-Tiny, 2 crops of 96 px and 6 of 48 px, batch 64, 4,096 prototypes; pictures are decoded anew in every step, while
the step before trains. Steps of the two forms alternate. The share of the matrix rate counts every matrix product of
a step as PyTorch runs it: crops, both networks, the heads on the tokens that they see, the way back of the student.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.data import data_folder
from benchmarks.machine import linear_peak
from benchmarks.results import show, write
from dinokit.backbones.vit import Attention, explicit_attention, fused_attention
from dinokit.checkpoints.load import load_model
from dinokit.pretrain.loop import Pretraining
from dinokit.pretrain.pictures import open_training_pictures
from dinokit.pretrain.recipe import Recipe
from dinokit.pretrain.recipe_file import recipe_from_dict

OURS = "written out (ours)"
RECIPE = {
    "objective": "dinov3",
    "crops": {"global_size": 96, "local_size": 48, "local_number": 6},
    "dinov3": {"prototypes": 4096, "patch_prototypes": 4096},
    "run": {"batch": 64, "picture_side": 160, "memory_limit": 0.0, "probe_every": 0},
}


class TimedPretraining(Pretraining):
    """Keeps the seconds that the last step took to get its batch: the wait for pictures, and the crops."""

    batch_seconds = 0.0

    def make_batch(self) -> tuple[Any, Any]:
        started = time.perf_counter()
        batch = super().make_batch()
        self.batch_seconds = time.perf_counter() - started
        return batch


def build(recipe: Recipe, attention: Attention, folder: Path) -> TimedPretraining:
    """A run that decodes as it goes, with one form of attention."""
    pictures = open_training_pictures([str(data_folder() / "photos" / "photos-0000.tar")], recipe.run)
    run = TimedPretraining(recipe, pictures, folder, load_model("random:dinokit_vitt16"))
    for network in (run.networks.student, run.networks.teacher):
        network.backbone.use_attention(attention)
    return run


def timed(work: Callable[[], object]) -> float:
    """Seconds that `work` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def flops(work: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products of `work`."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    recipe = recipe_from_dict(RECIPE)
    forms = {OURS: explicit_attention, "PyTorch SDPA": fused_attention}
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    data: list[float] = []
    with TemporaryDirectory() as folder:
        runs = {name: build(recipe, form, Path(folder)) for name, form in forms.items()}
        for number in range(rounds + 1):
            for name, run in runs.items():
                seconds[name].append(timed(run.train_step))
                run.step += 1
            data.append(runs[OURS].batch_seconds)
            print(f"round {number} of {rounds}", flush=True)
        work = flops(runs[OURS].train_step)
    step = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    report(recipe, step, statistics.median(data[1:]), work)


def report(recipe: Recipe, step: dict[str, float], data: float, work: int) -> None:
    """The table and the file; `work`: floating-point operations of a step."""
    ours, sdpa = step.values()
    bf16 = linear_peak(torch.bfloat16)
    figures = {
        "pictures_per_second": recipe.run.batch / ours,
        "pictures_per_second_sdpa": recipe.run.batch / sdpa,
        "ratio_to_sdpa": sdpa / ours,
        "data_share": data / ours,
        "tflops": work / ours / 1e12,
        "bf16_matrix_tflops": bf16,
        "share_of_bf16_rate": work / ours / 1e12 / bf16,
    }
    show("training step of the small network", ("figure", "value"), list(figures.items()))
    print(write("pretrain", figures))


if __name__ == "__main__":
    main()
