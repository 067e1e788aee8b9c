"""What a frozen backbone gives for a batch of pictures, and where each feature cell lies in its picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

Points = Tensor | Sequence[float] | Sequence[Sequence[float]]


@dataclass(frozen=True)
class Grid:
    """Maps feature cells (row, col) to source pixels (x, y) and back, for every picture of a batch.

    `rows` x `cols` cells of one size span a rectangle of source pixels that begins at the picture's top left corner
    and ends where the picture does or, with padding, beyond it: the map is one scale per axis. Pixel centres lie at
    .5, as do cell centres: cell (0, 0) of a grid that spans the picture covers pixels (0, 0) to (width/cols,
    height/rows).
    """

    rows: int
    cols: int
    sizes: tuple[tuple[int, int], ...]
    """Height and width of each source picture in pixels."""
    spans: tuple[tuple[float, float], ...] = ()
    """Height and width in source pixels that the grid spans in each picture; left out: the picture's own."""

    def __post_init__(self) -> None:
        if not self.spans:
            object.__setattr__(self, "spans", tuple((float(height), float(width)) for height, width in self.sizes))

    def to_pixels(self, cells: Points, picture: int = 0) -> Tensor:
        """Centres of cells [..., 2] as (row, col) -> pixels [..., 2] as (x, y) in picture number `picture`."""
        cells = torch.as_tensor(cells)
        scale = self._pixels_per_cell(picture, cells)
        return (cells.to(scale.dtype).flip(-1) + 0.5) * scale

    def to_cells(self, pixels: Points, picture: int = 0) -> Tensor:
        """Pixels [..., 2] as (x, y) -> fractional cells [..., 2] as (row, col); whole numbers are cell centres."""
        pixels = torch.as_tensor(pixels)
        scale = self._pixels_per_cell(picture, pixels)
        return (pixels.to(scale.dtype) / scale - 0.5).flip(-1)

    def inside(self, picture: int = 0) -> Tensor:
        """Which cells show the picture and not its padding, by their centre: bool [rows, cols].

        The first row and column always do, however narrow the picture.
        """
        height, width = self.sizes[picture]
        (high, wide), rows, cols = self.spans[picture], torch.arange(self.rows), torch.arange(self.cols)
        down = ((rows + 0.5) * (high / self.rows) < height) | (rows == 0)
        across = ((cols + 0.5) * (wide / self.cols) < width) | (cols == 0)
        return down[:, None] & across

    def _pixels_per_cell(self, picture: int, like: Tensor) -> Tensor:
        height, width = self.spans[picture]
        dtype = torch.float32 if like.device.type == "mps" else torch.float64  # Apple's GPUs have no float64
        return torch.tensor([width / self.cols, height / self.rows], dtype=dtype, device=like.device)


@dataclass(frozen=True)
class Features:
    """The output of a backbone for B pictures.

    cls [B, D] the class token, registers [B, R, D], patches [B, h, w, D]; all after the final norm unless
    `intermediate(..., norm=False)` asked otherwise. `grid` places the patches in the source pictures.
    """

    cls: Tensor
    registers: Tensor
    patches: Tensor
    grid: Grid | None = None

    @property
    def tokens(self) -> Tensor:
        """Patches as a sequence, row by row: [B, h*w, D]."""
        return self.patches.flatten(1, 2)

    def to(self, *args: Any, **kwargs: Any) -> Features:
        """The same features on another device or in another dtype, as `Tensor.to`."""
        return replace(
            self,
            cls=self.cls.to(*args, **kwargs),
            registers=self.registers.to(*args, **kwargs),
            patches=self.patches.to(*args, **kwargs),
        )

    def __len__(self) -> int:
        return self.cls.shape[0]

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {list(getattr(self, name).shape)}" for name in ("cls", "registers", "patches"))
        grid = f", grid of {self.grid.rows} x {self.grid.cols} cells" if self.grid else ""
        return f"Features({shapes}{grid}, {str(self.cls.dtype).removeprefix('torch.')} on {self.cls.device})"

    @staticmethod
    def join(parts: Sequence[Features]) -> Features:
        """Features of several batches with equal grids as one batch."""
        grids = [part.grid for part in parts if part.grid is not None]
        grid = None
        if grids:
            sizes, spans = (tuple(pair for g in grids for pair in getattr(g, name)) for name in ("sizes", "spans"))
            grid = Grid(grids[0].rows, grids[0].cols, sizes, spans)
        return Features(
            torch.cat([part.cls for part in parts]),
            torch.cat([part.registers for part in parts]),
            torch.cat([part.patches for part in parts]),
            grid,
        )
