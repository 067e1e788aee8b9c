"""Which cell of one picture shows what a cell of another one shows: nearest neighbours among patch features.

Cells that are each other's nearest (mutual), clearer than the next best (ratio test of Lowe 2004, section 7.1), placed
between cells by the mean of the similarities around the best (soft-argmax, Honari et al. 2018). Similarities are
computed in strips, so that memory grows with the cells of one picture and not with the product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

_STRIP = 1024
TEMPERATURE = 0.05
"""Of the soft-argmax: differences of cosine that count."""
EXPECTED = 1.5
"""Cells around an expected place in which it is sought."""
NEAR = 3
"""Cells around the best that count as the same place: the runner-up lies outside."""


@dataclass(frozen=True)
class Nearest:
    """For each of the N cells of the first grid, row by row, the most similar place of the second."""

    index: Tensor
    """[N], number of the cell in the second grid, row by row."""
    places: Tensor
    """[N, 2] (row, col) in the second grid, between cells."""
    similarity: Tensor
    """[N], cosine of the cells."""
    runner_up: Tensor
    """[N], cosine of the best cell that is not near the best; -1 where there is none."""
    mutual: Tensor
    """bool [N]: the best cell's own best is this one."""


def describe(layers: Sequence[Tensor]) -> Tensor:
    """The layers [h, w, D] of one picture as one grid [h, w, L D] of unit length.

    What all cells of the picture share, their mean direction, is subtracted from each layer: it is the light and the
    kind of picture, and makes two cells alike where they only are both cells.
    """
    units = [normalize(layer.float(), dim=-1) for layer in layers]
    return normalize(torch.cat([normalize(unit - unit.mean((0, 1)), dim=-1) for unit in units], dim=-1), dim=-1)


def mutual_nearest(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cells that are each other's nearest: numbers [M] in grids of unit length [h, w, D] and [h', w', D], cosines [M].

    Ordered by the first.
    """
    nearest = find_nearest(first, second)
    return nearest.mutual.nonzero()[:, 0], nearest.index[nearest.mutual], nearest.similarity[nearest.mutual]


def patch_similarity(first: Tensor, second: Tensor) -> float:
    """The number of mutual nearest patches of [N, D] and [M, D], for each patch of the smaller set: 0 to 1.

    1 for equal pictures: where vectors of whole pictures say that these are alike, it says whether the parts are too
    (best buddies of Amir et al. 2021). Measured on training pictures, the share alone ranks better than the sum of
    the cosines.
    """
    mutual, _, _ = mutual_nearest(*(normalize(patches.float(), dim=-1)[None] for patches in (first, second)))
    return len(mutual) / min(len(first), len(second))


def find_nearest(first: Tensor, second: Tensor) -> Nearest:
    """Compare every cell of two grids of unit-length features, [h, w, D] and [h', w', D]."""
    rows, cols = second.shape[:2]
    own, others = first.flatten(0, 1), second.flatten(0, 1)
    back = torch.full((len(others),), -torch.inf, device=own.device)
    backward = torch.zeros(len(others), dtype=torch.long, device=own.device)
    strips = []
    for start in range(0, len(own), _STRIP):
        cosines = own[start : start + _STRIP] @ others.T  # [n, h' w']
        highest, at = cosines.max(0)
        better = highest > back
        back = torch.where(better, highest, back)
        backward = torch.where(better, at + start, backward)
        strips.append(_best(cosines.view(-1, rows, cols)))
    index, places, similarity, runner_up = (torch.cat(parts) for parts in zip(*strips, strict=True))
    mutual = backward[index] == torch.arange(len(own), device=own.device)
    return Nearest(index, places, similarity, runner_up, mutual)


def sample(grid: Tensor, cells: Tensor) -> Tensor:
    """Unit-length features [N, D] between the cells of a grid [h, w, D], at `cells` [N, 2] (row, col)."""
    rows, cols = grid.shape[:2]
    limits = torch.tensor([rows - 1, cols - 1], dtype=cells.dtype, device=cells.device)
    inside = torch.minimum(cells.clamp_min(0), limits)
    low = inside.floor().long()
    high = torch.minimum(low + 1, limits.long())
    down, across = (inside - low).to(grid.dtype).unsqueeze(-1).unbind(1)
    upper = grid[low[:, 0], low[:, 1]] * (1 - across) + grid[low[:, 0], high[:, 1]] * across
    lower = grid[high[:, 0], low[:, 1]] * (1 - across) + grid[high[:, 0], high[:, 1]] * across
    return normalize(upper * (1 - down) + lower * down, dim=-1)


def soft_argmax(cosines: Tensor) -> tuple[Tensor, Tensor]:
    """The best cell [n], as a number, and the place [n, 2] (row, col) near it, of maps [n, h, w]."""
    cols = cosines.shape[2]
    index = cosines.flatten(1).argmax(1)
    around = _window(cosines, index, 1)  # [n, 3, 3]
    weights = (around.flatten(1) / TEMPERATURE).softmax(1).view_as(around)
    line = torch.arange(-1, 2, device=cosines.device, dtype=weights.dtype)
    row = index // cols + (weights.sum(2) * line).sum(1)
    col = index % cols + (weights.sum(1) * line).sum(1)
    return index, torch.stack([row, col], dim=1)


def near_only(cosines: Tensor, cells: Tensor) -> Tensor:
    """Maps [n, h, w] with -1 far from `cells` [n, 2] (row, col); as they are where these are NaN."""
    rows, cols = (torch.arange(side, device=cosines.device) for side in cosines.shape[1:])
    down = (rows - cells[:, :1]).abs() <= EXPECTED  # [n, h]
    across = (cols - cells[:, 1:]).abs() <= EXPECTED  # [n, w]
    near = down[:, :, None] & across[:, None]
    return torch.where(near | ~near.any(1).any(1)[:, None, None], cosines, -1.0)


def _best(cosines: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Number [n], place [n, 2] and height [n] of the best of each map [n, h, w], and of the best far from it [n]."""
    index, places = soft_argmax(cosines)
    similarity = cosines.flatten(1).gather(1, index[:, None])[:, 0]
    rows, cols = cosines.shape[1:]
    down = (torch.arange(rows, device=cosines.device) - (index // cols)[:, None]).abs() <= NEAR  # [n, h]
    across = (torch.arange(cols, device=cosines.device) - (index % cols)[:, None]).abs() <= NEAR  # [n, w]
    near = down[:, :, None] & across[:, None]
    return index, places, similarity, cosines.masked_fill(near, -1.0).flatten(1).amax(1)


def _window(maps: Tensor, index: Tensor, radius: int) -> Tensor:
    """The values around `index` [n] in maps [n, h, w]: [n, side, side], -inf beyond the border."""
    side, cols = 2 * radius + 1, maps.shape[2]
    wide = pad(maps, (radius,) * 4, value=-torch.inf)
    line = torch.arange(side, device=maps.device)
    row = (index // cols)[:, None, None] + line[:, None]
    col = (index % cols)[:, None, None] + line
    return wide[torch.arange(len(maps), device=maps.device)[:, None, None], row, col]
