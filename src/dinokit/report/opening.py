"""Where the demo page opens: at the patch whose similarities show best what the network holds together."""

from collections.abc import Sequence

import numpy as np

from dinokit.heads.patches import Floats
from dinokit.report.feature_maps import box_mean

_REACH = 4  # cells
_GLOWING = 90  # per cent of all patches are darker than those that count as glowing


def innermost(front: Floats) -> tuple[int, int]:
    """The cell (row, col) that has most foreground [h, w] around it, from 0 to 1; what lies outside has none."""
    around = box_mean(np.pad(front, _REACH), _REACH)[_REACH:-_REACH, _REACH:-_REACH]
    row, col = np.unravel_index(int((around * front).argmax()), front.shape)
    return int(row), int(col)


def choose_opening(patches: Sequence[Floats], fronts: Sequence[Floats], starts: Sequence[tuple[int, int]]) -> int:
    """The photo to open with: that whose start is alike to its own foreground, and elsewhere to foregrounds alone.

    patches: unit-length features [h, w, D] a photo; fronts: their foreground [h, w]; starts: a cell of each photo.
    """
    front = np.concatenate([f.ravel() for f in fronts])
    scores = []
    for own, (row, col) in enumerate(starts):
        maps = [p @ patches[own][row, col] for p in patches]
        everywhere = np.concatenate([m.ravel() for m in maps])
        scores.append(_separation(maps[own], fronts[own]) * _precision(everywhere, front))
    return int(np.argmax(scores))


def _separation(cosines: Floats, front: Floats) -> float:
    """How much more alike the foreground is than the background, both weighted softly."""
    inside = (cosines * front).sum() / max(front.sum(), 1e-9)
    outside = (cosines * (1 - front)).sum() / max((1 - front).sum(), 1e-9)
    return float(inside - outside)


def _precision(cosines: Floats, front: Floats) -> float:
    """The share of all glow that lies on foregrounds."""
    glow = np.maximum(cosines - np.percentile(cosines, _GLOWING), 0)
    return float((glow * front).sum() / max(glow.sum(), 1e-9))
