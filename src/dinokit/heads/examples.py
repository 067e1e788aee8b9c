"""What heads that classify learn from, and are judged by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dinokit.heads.pooling import Pooling


@dataclass(frozen=True)
class Examples:
    """Vectors [N, F] as `pooling` makes them, and targets [N, K]."""

    vectors: Tensor
    targets: NDArray[np.bool_]
    pooling: Pooling
    several: bool = False
    """Whether a picture may have several labels, or none."""

    def part(self, places: NDArray[np.integer]) -> Examples:
        """Those at `places`."""
        return Examples(self.vectors[places], self.targets[places], self.pooling, self.several)

    def columns(self, part: Pooling) -> slice:
        """Where the vector of `part`, with fewer blocks or without the patches, lies in these."""
        blocks, cells = self.pooling.blocks, self.pooling.cells**2
        assert part.blocks <= blocks
        assert part.cells in (0, self.pooling.cells)
        unit = self.vectors.shape[1] // (blocks + cells)
        return slice((blocks - part.blocks) * unit, (blocks + part.cells**2) * unit)
