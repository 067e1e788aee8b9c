"""Puts a run's model into the package, in half precision, with its heads beside the experiment.

python experiments/bundled/package.py RUN --size 128
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from dinokit.checkpoints.load import bundled_folder, load_model
from dinokit.checkpoints.save import save_model, save_tensors
from dinokit.pretrain.checkpointing import HEADS

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Parse and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--size", type=int, required=True, help="reading size chosen on the held-out tenth")
    options = parser.parse_args()
    model = load_model(options.run)
    info = replace(model.info, name="dinokit_vitt16", image_size=options.size)
    folder = bundled_folder("dinokit_vitt16")
    save_model(folder, model.network.state_dict(), info, torch.float16)
    save_tensors(HERE / HEADS, load_file(options.run / "model" / HEADS), torch.float16)
    print(folder)


if __name__ == "__main__":
    main()
