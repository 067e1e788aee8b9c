"""Takes the registers out of a model, with its heads beside it, so that a run can begin from it.

python experiments/bundled/drop_registers.py runs/4 runs/4-free
"""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import torch

from dinokit.checkpoints.load import load_model
from dinokit.checkpoints.save import save_model
from dinokit.pretrain.checkpointing import HEADS


def main() -> None:
    """Source, target."""
    source, target = Path(sys.argv[1]), Path(sys.argv[2]) / "model"
    model = load_model(source)
    state = {key: value for key, value in model.network.state_dict().items() if key != "storage_tokens"}
    target.mkdir(parents=True)
    info = replace(model.info, name="dinokit_vitt16", spec=replace(model.network.spec, registers=0))
    save_model(target, state, info, torch.float32)
    shutil.copy(source / "model" / HEADS, target)


if __name__ == "__main__":
    main()
