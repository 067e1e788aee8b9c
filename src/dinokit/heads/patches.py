"""What heads without training do to patches first: length one, and without what all of them share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


def unit_length(features: NDArray[Any]) -> Floats:
    """Features [..., D] scaled to length one."""
    lengths = np.linalg.norm(features, axis=-1, keepdims=True)
    return np.asarray(features / np.maximum(lengths, 1e-12), dtype=np.float32)


def without_mean(patches: Sequence[Floats]) -> list[Floats]:
    """Patches [h, w, D] of a set of photos at length one, less what all of them share: their mean direction."""
    units = [unit_length(p) for p in patches]
    mean = np.concatenate([u.reshape(-1, u.shape[-1]) for u in units]).mean(axis=0)
    return [unit_length(u - mean) for u in units]


TREND_SHARE = 0.45
"""Share of the variance above which what changes evenly over a picture is what it shows, and not where patches lie:
photographs have 0.18 to 0.39, a thing that fills one half of its picture 0.65 and more."""


def without_trend(patches: NDArray[Any]) -> Floats:
    """Patches [h, w, D] without what changes evenly from side to side and from top to bottom, the mean kept.

    Patches know where they lie; this takes out most of it, so that an even sky is one thing. They are left as they are
    where that is most of what tells them apart (`TREND_SHARE`): then something fills one side.
    """
    height, width = patches.shape[:2]
    rows, cols = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    places = np.stack([rows.ravel(), cols.ravel()], axis=1)  # [h*w, 2], means 0
    flat = patches.reshape(height * width, -1).astype(np.float64)
    apart = flat - flat.mean(axis=0)
    trend = places @ np.linalg.lstsq(places, apart, rcond=None)[0]
    kept = flat if (trend**2).sum() > TREND_SHARE * (apart**2).sum() else flat - trend
    return np.asarray(kept.reshape(patches.shape), dtype=np.float32)
