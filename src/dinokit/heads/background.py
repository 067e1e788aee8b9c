"""Which side of a split of a picture is its background, without labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dinokit.heads.patches import Floats


def background_score(unit: Floats, side: NDArray[np.bool_]) -> float:
    """How much the patches `side` [h, w] of unit-length features [h, w, D] look like a background.

    Sky, sand and floors are of one kind, things are made of parts: the mean cosine of two patches of the side (LOST,
    Siméoni et al. 2021, takes few alike patches as the sign of a thing) counts six times as much as how much more of
    the border than of the photo it holds.
    """
    if not side.any():
        return 0.0
    border = np.concatenate([side[0], side[-1], side[:, 0], side[:, -1]])
    return 6.0 * float((unit[side].mean(axis=0) ** 2).sum()) + float(border.mean() - side.mean())
