"""A large picture as overlapping tiles of one size, and how much each counts where they overlap.

Positions and weights are in cells of the patch grid. Tiles lie evenly; in the overlap the weight of a tile falls
linearly towards its edge, so that features change over gradually and no seam remains.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

OVERLAP = 0.25
"""Share of a tile's side that it has in common with the next, at least."""


@dataclass(frozen=True)
class Tiling:
    """Tiles of `height` x `width` cells over a grid of `rows` x `cols`."""

    rows: int
    cols: int
    height: int
    width: int
    tops: tuple[int, ...]
    """First row of each row of tiles."""
    lefts: tuple[int, ...]
    """First column of each column of tiles."""

    @property
    def places(self) -> list[tuple[int, int]]:
        """(first row, first column) of each tile, row by row."""
        return [(top, left) for top in self.tops for left in self.lefts]

    def weights(self, top: int, left: int) -> Tensor:
        """How much the cells of the tile at (top, left) count: [height, width], above 0."""
        down = _ramp(top, self.height, self.rows)
        across = _ramp(left, self.width, self.cols)
        return down[:, None] * across


def plan_tiles(rows: int, cols: int, side: int) -> Tiling:
    """Cover a grid of `rows` x `cols` cells by square tiles of `side` cells (less where the grid is narrower)."""
    height, width = min(side, rows), min(side, cols)
    return Tiling(rows, cols, height, width, _starts(rows, height), _starts(cols, width))


def _starts(length: int, side: int) -> tuple[int, ...]:
    """First cells of tiles that cover `length` cells evenly."""
    step = max(int(side * (1 - OVERLAP)), 1)
    count = -(-(length - side) // step) + 1
    return tuple(round(number * (length - side) / max(count - 1, 1)) for number in range(count))


def _ramp(start: int, side: int, length: int) -> Tensor:
    """Weights along one axis: rising from an edge inside the picture over the overlap, 1 elsewhere."""
    overlap = max(int(side * OVERLAP), 1)
    near, far = torch.arange(1, side + 1), torch.arange(side, 0, -1)
    rising = near if start > 0 else torch.full_like(near, overlap)
    falling = far if start + side < length else torch.full_like(far, overlap)
    return torch.minimum(rising, falling).clamp(max=overlap) / overlap
