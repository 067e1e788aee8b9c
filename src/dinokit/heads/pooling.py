"""From the features of a picture's last blocks to one vector: the input of everything that classifies.

Class tokens of the last blocks, then means of a block's patches (DINOv3, section 6.1.2: one mean, of the last block; or
one for each of cells x cells parts of the picture, which keep where things are; an earlier block knows more of form and
less of meaning).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
    layer: int = -1
    """The block whose patches these are, counted from the end."""
    signed: bool = False
    """The patches' positive and negative parts have means of their own: opposites do not cancel out."""

    def __post_init__(self) -> None:
        for name, least, most in (("blocks", 1, 64), ("cells", 0, 64), ("layer", -64, -1)):
            value = getattr(self, name)
            if not isinstance(value, int) or not least <= value <= most:
                raise UserError(f"{name} is {value!r}", f"give a whole number from {least} to {most}")
        if not isinstance(self.signed, bool):
            raise UserError(f"signed is {self.signed!r}", "give True or False")
        for name, given in (("layer", self.layer != -1), ("signed", self.signed)):
            if given and not self.cells:
                raise UserError(
                    f"{name} is of the patches, and none are read", "leave it out, or set cells to 1 or more"
                )

    @property
    def layers(self) -> tuple[int, ...]:
        """The blocks that are read, counted from the end."""
        return tuple(range(min(-self.blocks, self.layer), 0))

    def reduce(self, features: Features) -> Features:
        """The features with the means of the parts as patches [B, cells, cells, D], or 2 D where `signed`.

        Without patches in the vector, one mean is kept.
        """
        cells = max(self.cells, 1)
        patches = features.patches.float()
        if self.signed:
            patches = torch.cat([patches.relu(), (-patches).relu()], dim=-1)
        grid = None if features.grid is None else replace(features.grid, rows=cells, cols=cells)
        return replace(features, patches=_mean_cells(patches, cells), grid=grid)

    def vector(self, reduced: Sequence[Features]) -> Tensor:
        """The vectors [B, F] in float32 from the features of `layers`, each of them reduced; F is `width`."""
        parts = [features.cls.float() for features in reduced[-self.blocks :]]
        if self.cells:
            parts.append(reduced[self.layer].patches.float().flatten(1))
        return torch.cat(parts, dim=1)

    def width(self, widths: Sequence[int]) -> int:
        """F; widths: of the features of each of `layers`."""
        return sum(widths[-self.blocks :]) + (self.patch_width(widths) if self.cells else 0)

    def patch_width(self, widths: Sequence[int]) -> int:
        """How many of the numbers are of patches."""
        return self.cells**2 * (2 if self.signed else 1) * widths[self.layer]


def _mean_cells(patches: Tensor, cells: int) -> Tensor:
    """Means of patches [B, h, w, D] over cells x cells parts of the grid: [B, cells, cells, D]."""
    maps = patches.permute(0, 3, 1, 2)
    return torch.nn.functional.adaptive_avg_pool2d(maps, cells).permute(0, 2, 3, 1)
