"""From the cells of a patch grid to the pixels of a picture, bilinearly between the centres of cells.

What a pixel takes of the cells is the product of what its row and its column take, so that a band of rows can be had
alone: memory stays bounded however large the picture and however many the values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

Span = tuple[float, float]
"""Height and width in pixels that the cells of a picture span."""
_BAND_VALUES = 1 << 24
"""That are held at a time."""


def shares(pixels: int, cells: int, span: float, smooth: bool = True) -> Tensor:
    """What each of `pixels` takes of each of `cells` that span `span` pixels: [pixels, cells], rows sum to 1.

    Beyond the outermost centres their cells go on. smooth: linearly between the two nearest centres; else the cell
    that the pixel's left edge lies in, as nearest-neighbour interpolation has it.
    """
    places = torch.arange(pixels, dtype=torch.float64) * (cells / span)
    if smooth:
        places = places + 0.5 * (cells / span) - 0.5
    places = places.clamp(0, cells - 1)
    before = places.floor().long()
    after = (before + 1).clamp_max(cells - 1)
    share = ((places - before) if smooth else torch.zeros_like(places)).float()[:, None]
    found = torch.zeros(pixels, cells)
    found.scatter_add_(1, before[:, None], 1 - share)
    return found.scatter_add_(1, after[:, None], share)


@dataclass(frozen=True)
class PixelMap:
    """Values of cells [C, h, w], to be had at the pixels of a picture."""

    values: Tensor
    span: Span
    height: int
    width: int
    smooth: bool = True
    """Bilinearly between cells, or each cell as a whole, see `shares`."""

    def mirrored(self) -> PixelMap:
        """The values of the mirror image; the view must end where the picture does."""
        return replace(self, values=self.values.flip(-1))

    def bands(self) -> Iterator[tuple[slice, Tensor]]:
        """Bands of rows from top to bottom, with the values of their pixels [C, rows, width]."""
        count, high, wide = self.values.shape
        down = shares(self.height, high, self.span[0], self.smooth).to(self.values)
        across = shares(self.width, wide, self.span[1], self.smooth).to(self.values).T
        rows = max(_BAND_VALUES // (self.width * count), 1)
        for top in range(0, self.height, rows):
            band = slice(top, min(top + rows, self.height))
            yield band, down[band] @ self.values @ across

    def whole(self) -> Tensor:
        """The values of all pixels [C, height, width]."""
        return torch.cat([values for _, values in self.bands()], dim=1)

    def most(self) -> Tensor:
        """Which of the C values is the greatest at each pixel: uint8 [height, width]."""
        return torch.cat([values.argmax(0).to(torch.uint8) for _, values in self.bands()])
