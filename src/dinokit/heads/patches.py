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
