"""Patch features as colours: their first three principal components as red, green and blue.

Fitted once and applied to any number of pictures, one colour is one kind of thing in all of them, and a video does not
flicker. Oquab et al. 2023 (DINOv2), section 7.4. Of several pictures the components are those in which the patches of
one picture differ: what each picture is as a whole would fill them otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dinokit.heads.patches import Bytes, Floats, unit_length

_SPREAD = (1.0, 99.0)  # percentiles of a component that become dark and bright


@dataclass(frozen=True)
class PatchColours:
    """Three directions in feature space, and the range of each that is shown."""

    mean: NDArray[np.float64]
    """[D]"""
    axes: NDArray[np.float64]
    """[D, 3], the strongest first; zero where there are fewer."""
    low: NDArray[np.float64]
    """[3], the values that are black."""
    high: NDArray[np.float64]
    """[3], the values that are bright."""

    @staticmethod
    def fit(patches: Sequence[Floats]) -> PatchColours:
        """The colours of a set of pictures, each [h, w, D]."""
        flat, mean, axes = inner_axes(patches, 3)
        low, high = np.percentile((flat - mean) @ axes, _SPREAD, axis=0)
        return PatchColours(mean, axes, low, high)

    def of(self, patches: Floats) -> Bytes:
        """The colours of one picture: [h, w, D] -> uint8 [h, w, 3]."""
        parts = (unit_length(patches) - self.mean) @ self.axes
        shares = np.clip((parts - self.low) / np.maximum(self.high - self.low, 1e-9), 0.0, 1.0)
        return np.asarray(np.round(shares * 255), dtype=np.uint8)


def pca_colours(patches: Floats) -> Bytes:
    """The colours of a picture by itself: [h, w, D] -> uint8 [h, w, 3]."""
    return PatchColours.fit([patches]).of(patches)


def shared_pca_colours(patches: Sequence[Floats]) -> list[Bytes]:
    """As `pca_colours`, with the same directions for all pictures."""
    colours = PatchColours.fit(patches)
    return [colours.of(p) for p in patches]


def inner_axes(patches: Sequence[Floats], count: int) -> tuple[Floats, NDArray[np.float64], NDArray[np.float64]]:
    """Where the patches [h, w, D] of a set differ within its pictures.

    Returns all patches at length one [N, D], their mean [D], and the first principal axes [D, count] of how they differ
    from the mean of their own picture.
    """
    units = [unit_length(p).reshape(-1, p.shape[-1]) for p in patches]
    flat = np.concatenate(units)
    _, axes = principal_axes(np.concatenate([unit - unit.mean(axis=0) for unit in units]), count)
    return flat, flat.mean(axis=0, dtype=np.float64), axes


def principal_axes(flat: Floats, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean [D] of [N, D] and its first principal axes [D, count]; missing ones are zero, skew fixes the signs."""
    mean = flat.mean(axis=0, dtype=np.float64)
    centred = flat.astype(np.float64) - mean
    axes = _leading_axes(centred.T @ centred, count)
    axes = axes * np.where(((centred @ axes) ** 3).sum(axis=0) < 0, -1.0, 1.0)
    return mean, np.pad(axes, ((0, 0), (0, count - axes.shape[1])))


def _leading_axes(gram: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """The eigenvectors [D, count] of the largest eigenvalues of [D, D], largest first.

    By subspace iteration, for few of them: a whole eigendecomposition a photo takes seconds on a busy machine.
    """
    width = min(count + 12, len(gram))
    basis = np.random.default_rng(0).normal(size=(len(gram), width))
    for _ in range(40 if width < len(gram) else 1):
        basis = np.linalg.qr(gram @ basis)[0]
    _, turn = np.linalg.eigh(basis.T @ gram @ basis)  # ascending
    return np.asarray(basis @ turn[:, ::-1][:, :count])
