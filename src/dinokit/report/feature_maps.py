"""What can be seen in patch features: foreground, similar places, corresponding points.

From features [h, w, D] to small maps on the same grid. The first principal component as foreground is that of DINOv2
(Oquab et al. 2023, section 7.4), in milliseconds; colours are in `heads/colours.py`, cuts in
`heads/normalised_cut.py`. Nothing is sharpened by looking at the pixels: what one sees is what the features hold.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from dinokit.heads.background import background_score
from dinokit.heads.colours import principal_axes
from dinokit.heads.correspondence import mutual_nearest
from dinokit.heads.patches import Floats, unit_length, without_trend

ENOUGH_FOR_MEAN = 6
"""Photos whose mean says more of what all photos share than of the single ones."""


@dataclass(frozen=True)
class PackedPatches:
    """Unit-length patch features in few bytes, good for cosines: `codes * scales` is near the feature."""

    codes: list[NDArray[np.int8]]
    """One array [h, w, K] a photo."""
    scales: Floats
    """[K], one step size for each of the K kept directions."""
    kept: float
    """Share of the squared length of the features that the K directions hold, 0 to 1."""
    mean_error: float
    """Mean absolute error of the cosine between two patches of the set."""


@dataclass(frozen=True)
class Matches:
    """M pairs of patches that are each other's nearest, ordered so that any first few are well spread."""

    first: NDArray[np.int64]
    """[M, 2], cells (row, col) in the first view."""
    second: NDArray[np.int64]
    """[M, 2], cells (row, col) in the second view."""
    cosine: Floats
    """[M]"""


def foreground(patches: Floats) -> Floats:
    """How much a patch belongs to the foreground, [h, w, D] -> [h, w] from 0 to 1.

    The first principal component, averaged over 3 x 3 patches and cut softly where Otsu's threshold splits it best in
    two; what changes evenly over the photo is taken out first, as `discover` does. Background is the side that is more
    of one kind and holds more of the border; see `heads/background.py`.
    """
    h, w = patches.shape[:2]
    unit = unit_length(without_trend(patches))
    mean, axis = principal_axes(unit.reshape(h * w, -1), 1)
    part = box_mean(((unit - mean) @ axis).reshape(h, w), 1)
    above = part - _otsu_threshold(part)
    if background_score(unit, above > 0) > background_score(unit, above <= 0):
        above = -above
    steps = np.clip(above / max(0.2 * float(part.std()), 1e-9), -30.0, 30.0)
    return np.asarray(1.0 / (1.0 + np.exp(-steps)), dtype=np.float32)


def box_mean(values: NDArray[Any], radius: int) -> NDArray[np.float64]:
    """The mean of [h, w] over squares of 2 radius + 1 cells; beyond the border its nearest cells count again."""
    side = 2 * radius + 1
    padded = np.pad(values.astype(np.float64), radius, mode="edge")
    return np.asarray(sliding_window_view(padded, (side, side)).mean(axis=(2, 3)))


def pack_patches(patches: Sequence[Floats], directions: int = 48) -> PackedPatches:
    """Keeps the strongest directions of unit-length features, in int8; taken as they are, so that cosines stay."""
    flat = np.concatenate([unit_length(p).reshape(-1, p.shape[-1]) for p in patches]).astype(np.float64)
    axes = np.linalg.eigh(flat.T @ flat)[1][:, ::-1]  # strongest first
    parts = flat @ axes[:, :directions]  # [N, K]
    scales = np.maximum(np.abs(parts).max(axis=0) / 127.0, 1e-12)
    codes = np.round(parts / scales).astype(np.int8)
    ends = np.cumsum([p.shape[0] * p.shape[1] for p in patches])[:-1]
    return PackedPatches(
        codes=[c.reshape(*p.shape[:2], -1) for c, p in zip(np.split(codes, ends), patches, strict=True)],
        scales=scales.astype(np.float32),
        kept=float((parts**2).sum() / max((flat**2).sum(), 1e-12)),
        mean_error=_mean_cosine_error(flat, codes * scales),
    )


def mutual_matches(first: Floats, second: Floats) -> Matches:
    """Patches of two views [h, w, D], [h', w', D] that are each other's nearest by cosine."""
    units = [torch.from_numpy(unit_length(patches)) for patches in (first, second)]
    starts, ends, cosine = (values.numpy() for values in mutual_nearest(*units))
    cells, others = (
        np.stack(np.divmod(numbers, patches.shape[1]), axis=1) for numbers, patches in ((starts, first), (ends, second))
    )
    order = _spread_order(cells, cosine)
    return Matches(cells[order], others[order], cosine[order])


def nearest_photos(cls: Floats, count: int = 3) -> tuple[NDArray[np.int64], Floats]:
    """For each class token of [N, D] the `count` most similar others: indices and cosines [N, count].

    What all photos share, their mean, is subtracted first where there are `ENOUGH_FOR_MEAN` of them.
    """
    unit = unit_length(cls)
    if len(cls) >= ENOUGH_FOR_MEAN:
        unit = unit_length(unit - unit.mean(axis=0))
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    indices = np.argsort(-cosines, axis=1, kind="stable")[:, : min(count, len(cls) - 1)]
    return indices, np.take_along_axis(cosines, indices, axis=1)


def _otsu_threshold(values: NDArray[np.float64]) -> float:
    """The value that splits `values` into the two classes of least inner variance (Otsu 1979)."""
    counts, edges = np.histogram(values, bins=64, range=tuple(np.percentile(values, [1, 99])))
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    total = below[-1]
    sums = np.cumsum(counts * centres)
    split = (below > 0) & (below < total)
    if not split.any():
        return float(np.mean(values))
    b, s = below[split], sums[split]
    between = (s / b - (sums[-1] - s) / (total - b)) ** 2 * b * (total - b)
    best = between >= between.max() * (1 - 1e-9)  # a gap without values is equally good all over: its middle
    return float(edges[1:][split][best].mean())


def _mean_cosine_error(flat: NDArray[np.float64], restored: NDArray[np.float64]) -> float:
    """Over up to 512 x 512 pairs spread evenly over the set."""
    step = max(len(flat) // 512, 1)
    exact, packed = flat[::step], restored[::step]
    return float(np.abs(exact @ exact.T - packed @ packed.T).mean())


def _spread_order(cells: NDArray[np.int64], cosine: Floats) -> list[int]:
    """Best first, but a pair close to one already taken waits until all emptier places are served."""
    waiting = list(np.argsort(-cosine, kind="stable"))
    taken: list[int] = []
    for radius in (8, 5, 3, 2, 0):
        later = []
        for index in waiting:
            if taken and np.abs(cells[taken] - cells[index]).max(axis=1).min() < radius:
                later.append(index)
            else:
                taken.append(int(index))
        waiting = later
    return taken
