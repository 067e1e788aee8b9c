"""Puts the last run's model into the package, in half precision; keeps heads, recipes, joined log and curves here.

python experiments/bundled/package.py runs/7 runs/8 --size 192

The runs are those since the model that is in the package: their logs are put behind the one that lies here.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from dinokit.checkpoints.load import bundled_folder, load_model
from dinokit.checkpoints.save import save_model, save_tensors
from dinokit.pretrain.checkpointing import HEADS
from dinokit.pretrain.recipe_file import read_toml
from dinokit.report.run_page import curves_svg, read_log

HERE = Path(__file__).resolve().parent
NAME = "dinokit_vitt16"
STEP = 64
"""Pictures of a step of the joined log."""


def join_logs(joined: list[dict[str, float]], runs: Sequence[Path]) -> list[dict[str, float]]:
    """The logs one after another, steps and seconds counted on; a step of 128 pictures counts for two."""
    joined = list(joined)
    for run in runs:
        before = joined[-1]
        pictures = read_toml((run / "recipe.toml").read_text(), str(run))["run"]["batch"]
        for line in read_log(run / "log.jsonl"):
            step = before["step"] + line["step"] * pictures / STEP
            joined.append({**line, "step": round(step, 1), "seconds": round(before["seconds"] + line["seconds"], 1)})
    return joined


def main() -> None:
    """Parse and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="from the first after the packaged model to the last")
    parser.add_argument("--size", type=int, required=True, help="reading size chosen on the held-out tenth")
    parser.add_argument("--map-layer", type=int, default=-1, help="block with the sharpest maps")
    options = parser.parse_args()
    last = options.runs[-1]
    model = load_model(last)
    save_model(
        bundled_folder(NAME),
        model.network.state_dict(),
        replace(model.info, name=NAME, image_size=options.size, map_layer=options.map_layer),
        torch.float16,
    )
    save_tensors(HERE / HEADS, load_file(last / "model" / HEADS), torch.float16)
    for run in options.runs:
        shutil.copy(run / "recipe.toml", HERE / f"recipe-{run.name}.toml")
    log = join_logs(read_log(HERE / "log.jsonl"), options.runs)
    (HERE / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    (HERE / "curves.svg").write_text(curves_svg(log))
    print(f"{bundled_folder(NAME)}, {HERE / HEADS}, log and curves")


if __name__ == "__main__":
    main()
