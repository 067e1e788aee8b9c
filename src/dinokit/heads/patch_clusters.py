"""Patch features as kinds of things: k-means over the patches of one picture or of a whole set.

Directions are compared, not lengths, and in what the patches of a picture differ in (`heads.colours.inner_axes`).
Fitted over a set, a number is one kind of thing in all of its pictures.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning

from dinokit.errors import UserError
from dinokit.heads.colours import inner_axes
from dinokit.heads.patches import Floats, unit_length

_AT_ONCE = 20_000  # patches; more are clustered in small batches
_RESTARTS = 4
_AXES = 16


@dataclass(frozen=True)
class PatchClusters:
    """k kinds of patches, the most frequent first."""

    mean: NDArray[np.float64]
    """[D], of the patches that were clustered."""
    axes: NDArray[np.float64]
    """[D, K], the directions that are compared."""
    centres: Floats
    """[k, K]"""

    @staticmethod
    def fit(patches: Sequence[Floats], count: int, seed: int = 0) -> PatchClusters:
        """Find `count` kinds in pictures [h, w, D], fewer where so many do not differ.

        Raises `UserError` for fewer patches than that.
        """
        if count < 1:
            raise UserError(f"count is {count}", "give the number of segments, 1 or more")
        flat, mean, axes = inner_axes(patches, _AXES)
        if count > len(flat):
            raise UserError(f"{count} segments of {len(flat)} patches are too many", "give fewer, or a larger size")
        method = KMeans if len(flat) <= _AT_ONCE else MiniBatchKMeans
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # fewer kinds than asked for: the rest are dropped
            found = method(count, random_state=seed, n_init=_RESTARTS).fit((flat - mean) @ axes)
        sizes = np.bincount(found.labels_, minlength=count)
        order = np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes)]
        return PatchClusters(mean, axes, found.cluster_centers_[order].astype(np.float32))

    def distances(self, patches: Floats) -> Floats:
        """How far each patch of [h, w, D] is from each centre: float32 [h, w, k]."""
        parts = (unit_length(patches) - self.mean) @ self.axes
        squares = (parts**2).sum(axis=-1, keepdims=True) - 2.0 * parts @ self.centres.T + (self.centres**2).sum(axis=1)
        return np.asarray(np.sqrt(np.maximum(squares, 0.0)), dtype=np.float32)
