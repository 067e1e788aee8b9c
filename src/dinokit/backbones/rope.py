"""Rotary position embedding of patch tokens (DINOv3, section 3: axial, coordinates in [-1, 1], base 100).

Half of the frequencies turn with the row, half with the column. Prefix tokens (class, registers) get the
identity rotation, so that one table covers the whole sequence and nothing has to be split and joined.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from dinokit.errors import UserError

Table = tuple[Tensor, Tensor]
"""Cosine and sine, each [tokens, head_dim]."""


@dataclass(frozen=True)
class RopeSpec:
    """How positions turn into angles. Either `base`, or both `min_period` and `max_period`."""

    base: float | None = 100.0
    min_period: float | None = None
    max_period: float | None = None
    normalize: Literal["separate", "max", "min"] = "separate"
    """Divide coordinates by height and width, or both by the longer or the shorter side."""
    shift: float | None = None
    """Training only: add uniform[-shift, shift] to each axis."""
    jitter: float | None = None
    """Training only: scale each axis by exp(uniform[-log jitter, log jitter])."""
    rescale: float | None = None
    """Training only: scale both axes together likewise (published training: 2)."""

    def __post_init__(self) -> None:
        by_period = self.min_period is not None and self.max_period is not None
        if (self.base is None) != by_period:
            raise UserError("rope: give either base or both min_period and max_period", "not both, not none")

    def periods(self, head_dim: int) -> Tensor:
        """Periods [head_dim / 4] in units of the coordinate range."""
        steps = torch.arange(head_dim // 4, dtype=torch.float32)
        if self.base is not None:
            return self.base ** (4 * steps / head_dim)
        assert self.min_period is not None
        assert self.max_period is not None
        ratio = self.max_period / self.min_period
        return self.min_period * ratio ** (steps / max(head_dim // 4 - 1, 1))


class Rope(nn.Module):
    """Makes the cosine and sine table of a patch grid.

    `periods` is a buffer of the state dict, as in published files, whose stored values count.
    """

    periods: Tensor

    def __init__(self, head_dim: int, spec: RopeSpec) -> None:
        super().__init__()
        self.spec = spec
        self.register_buffer("periods", spec.periods(head_dim))

    def forward(self, rows: int, cols: int, prefix: int = 0) -> Table:
        """Table for `prefix` unrotated tokens followed by rows * cols patches, row by row."""
        row, col = self._coordinates(rows, cols)
        angles = torch.cat([self._angles(row, cols, 1), self._angles(col, rows, 0)], dim=-1)  # [rows, cols, hd/2]
        angles = angles.flatten(0, 1).repeat(1, 2)  # [rows*cols, hd]
        angles = torch.cat([angles.new_zeros(prefix, angles.shape[1]), angles])
        return angles.cos(), angles.sin()

    def _angles(self, coordinates: Tensor, repeats: int, axis: int) -> Tensor:
        """Angles of one axis, repeated along the other: [n] -> [rows, cols, hd/4]."""
        angles = 2 * math.pi * coordinates[:, None] / self.periods  # [n, hd/4]
        shape = (-1, repeats, -1) if axis == 1 else (repeats, -1, -1)
        return angles.unsqueeze(axis).expand(*shape)

    def _coordinates(self, rows: int, cols: int) -> tuple[Tensor, Tensor]:
        """Patch centres along both axes in [-1, 1], perturbed while training."""
        height, width = {
            "separate": (rows, cols),
            "max": (max(rows, cols),) * 2,
            "min": (min(rows, cols),) * 2,
        }[self.spec.normalize]
        options = {"dtype": self.periods.dtype, "device": self.periods.device}
        row = 2 * (torch.arange(rows, **options) + 0.5) / height - 1  # type: ignore[call-overload]
        col = 2 * (torch.arange(cols, **options) + 0.5) / width - 1  # type: ignore[call-overload]
        if not self.training:
            return row, col
        return self._perturb(row, col)

    def _perturb(self, row: Tensor, col: Tensor) -> tuple[Tensor, Tensor]:
        if self.spec.shift is not None:
            shift = torch.empty(2).uniform_(-self.spec.shift, self.spec.shift)
            row, col = row + shift[0].item(), col + shift[1].item()
        for limit, axes in ((self.spec.jitter, 2), (self.spec.rescale, 1)):
            if limit is not None:
                factor = torch.empty(axes).uniform_(-math.log(limit), math.log(limit)).exp().expand(2)
                row, col = row * factor[0].item(), col * factor[1].item()
        return row, col


def rotate(x: Tensor, table: Table) -> Tensor:
    """Turn x [..., tokens, head_dim]: element i is paired with element i + head_dim / 2."""
    cosine, sine = (part.to(x.dtype) for part in table)
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat([-second, first], dim=-1) * sine
