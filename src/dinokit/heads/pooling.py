"""From the features of a picture's last blocks to one vector: the input of everything that classifies.

Class tokens of the last blocks, then means of the last block's patches (DINOv3, section 6.1.2; one mean, as published,
or one for each of cells x cells parts of the picture, which keep where things are).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dinokit.backbones.features import Features
from dinokit.errors import UserError


@dataclass(frozen=True)
class Pooling:
    """What the vector is made of."""

    blocks: int = 4
    """Last blocks whose class tokens it has."""
    cells: int = 1
    """Patches as the means of cells x cells parts; 1 is the mean of all, 0 leaves them out."""

    def __post_init__(self) -> None:
        for name, least in (("blocks", 1), ("cells", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or not least <= value <= 64:
                raise UserError(f"{name} is {value!r}", f"give a whole number from {least} to 64")

    @property
    def layers(self) -> tuple[int, ...]:
        """The blocks, counted from the end."""
        return tuple(range(-self.blocks, 0))

    def vector(self, layers: Sequence[Features]) -> Tensor:
        """The vectors [B, F] in float32 from the features of `layers`; F is D (blocks + cells ** 2)."""
        parts = [features.cls.float() for features in layers[-self.blocks :]]
        if self.cells:
            parts.append(mean_cells(layers[-1].patches, self.cells).flatten(1))
        return torch.cat(parts, dim=1)


def mean_cells(patches: Tensor, cells: int) -> Tensor:
    """Means of patches [B, h, w, D] over cells x cells parts of the grid: [B, cells, cells, D]."""
    maps = patches.float().permute(0, 3, 1, 2)
    return torch.nn.functional.adaptive_avg_pool2d(maps, cells).permute(0, 2, 3, 1)
