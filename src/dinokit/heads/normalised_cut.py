"""What stands out in one picture: the normalised cut of the graph of its patches.

Two patches are linked where their cosine exceeds a threshold; the second smallest eigenvector of the graph's Laplacian
splits it where the fewest links are cut (Shi and Malik 2000; on features: TokenCut, Wang et al. 2022). Background is
the side that looks like one (`heads/background.py`); TokenCut takes the side of the largest magnitude for foreground,
which finds fewer objects with a small network.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.linalg import eigh
from scipy.sparse.linalg import eigsh

from dinokit.errors import UserError
from dinokit.heads.background import background_score
from dinokit.heads.patches import Floats, unit_length

MOST_PATCHES = 8192
"""The graph has a number for each pair of patches: 512 MiB at this many."""

_ALIKE = 0.999  # cosine of patches between which there is nothing to tell
_UNLINKED = 1e-5  # keeps the graph connected
_DENSE = 100  # patches; for more, few eigenvectors are found faster by iteration

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Cut:
    """A grid of patches in two."""

    values: Floats
    """[h, w]: the eigenvector less its mean, largest magnitude 1; above 0 is foreground. 0 where nothing stands out."""
    parts: tuple[Mask, ...]
    """Connected pieces of the foreground, bool [h, w] each, the most prominent first; none where nothing stands out."""
    scores: tuple[float, ...]
    """Prominence of each piece, 0 to 1: its share of the sum of all values above 0."""


def normalised_cut(patches: Floats, threshold: float | None = None) -> Cut:
    """Cut the patches [h, w, D] of a picture in two.

    threshold: the cosine above which two patches are linked; None: the median of the picture, which suits every
    network. Nothing stands out where all patches are alike, as in a picture without texture, or where there is one.
    Raises `UserError` for more than `MOST_PATCHES`.
    """
    rows, cols, depth = patches.shape
    if rows * cols > MOST_PATCHES:
        raise UserError(f"{rows} x {cols} patches are too many to compare all with all", "give a smaller size")
    unit = unit_length(patches)
    flat = unit.reshape(-1, depth)
    cosines = flat @ flat.T
    linked = cosines > (np.median(cosines) if threshold is None else threshold)
    if linked.all() or not linked.any() or cosines.min() > _ALIKE:
        return Cut(np.zeros((rows, cols), np.float32), (), ())
    vector = second_eigenvector(linked).reshape(rows, cols)
    values = vector - vector.mean()
    if background_score(unit, values > 0) > background_score(unit, values <= 0):
        values = -values
    values /= np.abs(values).max()
    parts, scores = connected_pieces(values)
    return Cut(values.astype(np.float32), parts, scores)


def second_eigenvector(linked: Mask) -> NDArray[np.float64]:
    """The second smallest solution [N] of (D - A) y = lambda D y for the graph bool [N, N], of length y' D y = 1.

    Its sign means nothing.
    """
    graph = np.where(linked, 1.0, _UNLINKED)
    root = np.sqrt(graph.sum(axis=1))
    graph /= root[:, None]
    graph /= root
    count = len(graph)
    vectors = _few_eigenvectors(graph) if count > _DENSE else eigh(graph, subset_by_index=[count - 2, count - 1])[1]
    return np.asarray(vectors[:, 0] / root)  # ascending: the last, of eigenvalue 1, is constant


def _few_eigenvectors(graph: NDArray[np.float64]) -> NDArray[np.float64]:
    start = np.random.default_rng(0).normal(size=len(graph))
    return np.asarray(eigsh(graph, k=2, which="LA", v0=start)[1])


def connected_pieces(values: NDArray[np.float64]) -> tuple[tuple[Mask, ...], tuple[float, ...]]:
    """The connected pieces of what is above 0 in [h, w] (by sides, not corners), and how prominent each is."""
    labels, count = ndimage.label(values > 0)
    weights = np.asarray(ndimage.sum_labels(values, labels, np.arange(1, count + 1)))
    order = np.argsort(-weights, kind="stable")
    return tuple(labels == 1 + n for n in order), tuple(float(weights[n] / weights.sum()) for n in order)
