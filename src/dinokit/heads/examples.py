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
    widths: tuple[int, ...]
    """Of the features of each block that is read; those of a ConvNeXt differ."""
    several: bool = False
    """Whether a picture may have several labels, or none."""

    def part(self, places: NDArray[np.integer]) -> Examples:
        """Those at `places`."""
        return Examples(self.vectors[places], self.targets[places], self.pooling, self.widths, self.several)

    def columns(self, part: Pooling) -> slice:
        """Where the vector of `part`, with fewer blocks or without the patches, lies in these."""
        whole = self.pooling
        assert part.blocks <= whole.blocks
        assert part.cells in (0, whole.cells)
        tokens = self.widths[-whole.blocks :]
        end = sum(tokens) + (whole.patch_width(self.widths) if part.cells else 0)
        return slice(sum(tokens[: whole.blocks - part.blocks]), end)
