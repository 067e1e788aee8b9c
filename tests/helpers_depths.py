"""The test pictures with depth beside them: persons near, things farther, what is behind them farthest.

The depths are no measurements: each class of the masks has one, so that what a head learns is known.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from helpers_labels import LABELS, NAMES, PICTURES
from PIL import Image

METRES = np.array([4.0, 1.0, 2.0])
"""Of background, person and thing."""


def depth_folder(folder: Path, names: Sequence[str] = tuple(NAMES)) -> Path:
    """rgb/ and depth/ (16-bit PNG) of these pictures, in `folder`."""
    for kind in ("rgb", "depth"):
        (folder / kind).mkdir(parents=True)
    for name in names:
        shutil.copy(PICTURES / f"{name}.jpg", folder / "rgb")
        mask = np.array(Image.open(LABELS / "masks" / f"{name}.png"))
        millimetres = np.where(mask < len(METRES), METRES[np.minimum(mask, len(METRES) - 1)] * 1000, 0)
        Image.fromarray(millimetres.astype(np.uint16)).save(folder / "depth" / f"{name}.png")
    return folder
