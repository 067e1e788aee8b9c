"""Training speed of the small network on this machine, beside the same step with PyTorch's fused attention.

    python -m benchmarks.pretrain [--rounds 5]

ViT-Tiny, 2 crops of 96 px and 6 of 48 px, batch 64, 4,096 prototypes; pictures are decoded anew in every step. Steps
of the two forms alternate. The share of the matrix rate counts the products of both networks and the heads.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.data import data_folder
from benchmarks.machine import linear_peak
from benchmarks.results import show, write
from dinokit.backbones.vit import Attention, explicit_attention, fused_attention
from dinokit.checkpoints.load import load_model
from dinokit.pretrain.loop import Pretraining
from dinokit.pretrain.pictures import open_training_pictures
from dinokit.pretrain.recipe import Recipe
from dinokit.pretrain.recipe_file import recipe_from_dict

RECIPE = {
    "objective": "dinov3",
    "crops": {"global_size": 96, "local_size": 48, "local_number": 6},
    "dinov3": {"prototypes": 4096, "patch_prototypes": 4096},
    "run": {"batch": 64, "picture_side": 160, "memory_limit": 0.0, "probe_every": 0},
}


def build(recipe: Recipe, attention: Attention, folder: Path) -> Pretraining:
    """A run that decodes as it goes, with one form of attention."""
    pictures = open_training_pictures([str(data_folder() / "photos" / "photos-0000.tar")], recipe.run)
    run = Pretraining(recipe, pictures, folder, load_model("random:dinokit_vitt16"))
    for network in (run.networks.student, run.networks.teacher):
        network.backbone.use_attention(attention)
    return run


def timed(work: Callable[[], object]) -> float:
    """Seconds that `work` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def step_flops(recipe: Recipe) -> float:
    """Floating-point operations of the matrix products of one step: 2 per weight and token, 3 passes of the student."""
    network = load_model(f"random:{recipe.network}").network
    weights = sum(block_weight.numel() for block_weight in network.blocks.parameters() if block_weight.ndim == 2)
    spec, crops = network.spec, recipe.crops

    def tokens(size: int) -> int:
        return 1 + spec.registers + (size // spec.patch_size) ** 2

    def crop(size: int) -> float:
        attention = 4 * tokens(size) ** 2 * spec.width * spec.depth
        return 2 * weights * tokens(size) + attention

    teacher = 2 * crop(crops.global_size)
    student = teacher + crops.local_number * crop(crops.local_size)
    return recipe.run.batch * (3 * student + teacher)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    recipe = recipe_from_dict(RECIPE)
    forms = {"written out (ours)": explicit_attention, "PyTorch SDPA": fused_attention}
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    data: list[float] = []
    with TemporaryDirectory() as folder:
        runs = {name: build(recipe, form, Path(folder)) for name, form in forms.items()}
        for number in range(rounds + 1):
            for name, run in runs.items():
                seconds[name].append(timed(run.train_step))
                run.step += 1
            data.append(timed(runs["written out (ours)"].make_batch))
            print(f"round {number} of {rounds}", flush=True)
    step = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    report(recipe, step, statistics.median(data[1:]))


def report(recipe: Recipe, step: dict[str, float], data: float) -> None:
    """The table and the file."""
    ours, sdpa = step.values()
    bf16 = linear_peak(torch.bfloat16)
    figures = {
        "pictures_per_second": recipe.run.batch / ours,
        "pictures_per_second_sdpa": recipe.run.batch / sdpa,
        "ratio_to_sdpa": sdpa / ours,
        "data_share": data / ours,
        "tflops": step_flops(recipe) / ours / 1e12,
        "bf16_matrix_tflops": bf16,
        "share_of_bf16_rate": step_flops(recipe) / ours / 1e12 / bf16,
        "threads": torch.get_num_threads(),
    }
    show("training step, ViT-Tiny, 2 x 96 + 6 x 48 px, batch 64", ("figure", "value"), list(figures.items()))
    print(write("pretrain", figures))


if __name__ == "__main__":
    main()
