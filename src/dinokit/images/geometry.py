"""Sizes on the patch grid, and the one resize that all pictures go through.

A network needs sides that are multiples of its patch, or of its stride. A picture is fitted in one of two ways, and
nothing is ever cropped: its sides are rounded to the nearest multiples, so that the aspect changes by at most half of
one ("resize"), or it keeps its aspect to half a pixel and the rest of the grid is filled ("pad"). The resize is
torch's bicubic with antialiasing on uint8, several times faster than Pillow's and within 1/255 of it (a value in
100,000: 2/255) where both go along the rows first; Pillow 13 starts with the cheaper axis, which moves values by up
to 5/255.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from dinokit.errors import UserError
from dinokit.images.kinds import Finding
from dinokit.images.read import ReadError

PICTURE = "the picture"
Size = int | Sequence[int] | Literal["native"]
"""The size to work at, in pixels: the short side, or (height, width), or "native"."""

Fit = Literal["resize", "pad"]
"""How a picture comes to whole patches."""

MAX_PATCHES = 262_144
"""The most patches that one picture may become: four times 4096 x 4096 pixels in patches of 16."""

_SIZE_HINT = 'give the short side in pixels, (height, width), or "native"'


@dataclass(frozen=True)
class Layout:
    """Where a picture lies in its view: resized to `content`, and filled up at the bottom and right to `canvas`."""

    content: tuple[int, int]
    """Height and width of the resized picture, in pixels."""
    canvas: tuple[int, int]
    """Height and width of the view, multiples of the patch."""

    def span(self, height: int, width: int) -> tuple[float, float]:
        """Height and width of the whole view in pixels of the source picture, which has `height` and `width`."""
        return height * self.canvas[0] / self.content[0], width * self.canvas[1] / self.content[1]


def lay_out(
    height: int,
    width: int,
    size: Size,
    multiple: int,
    fit: Fit = "resize",
    name: str = PICTURE,
    most: int | None = None,
) -> Layout:
    """Lay a picture of `height` x `width` pixels out on a grid whose sides are multiples of `multiple`.

    `size`: int = the short side afterwards; (height, width) = both sides, with "pad" the box that the picture is
    fitted into; "native" = as it is. `fit`: "resize" rounds each side to the nearest multiple, one at least; "pad"
    keeps the aspect to half a pixel and fills up to the next multiple. Raises `UserError` naming `size` or `fit` if
    it is none of these, and `ReadError` with the picture's `name` for more than `most` patches,
    None: `MAX_PATCHES`.
    """
    if fit not in ("resize", "pad"):
        raise UserError(f"fit is {fit!r}", 'give "resize" or "pad"')
    wanted = _wanted(height, width, size)
    if fit == "resize":
        canvas = _multiples([math.floor(side / multiple + 0.5) for side in wanted], size, multiple, name, most)
        return Layout(canvas, canvas)
    rounded = [math.floor(side + 0.5) for side in wanted]
    canvas = _multiples([math.ceil(side / multiple) for side in rounded], size, multiple, name, most)
    scale = min(wanted[0] / height, wanted[1] / width)
    rows, cols = (math.floor(side * scale + 0.5) for side in (height, width))
    return Layout((min(max(rows, 1), canvas[0]), min(max(cols, 1), canvas[1])), canvas)


def fit_to_grid(height: int, width: int, size: Size, patch: int, name: str = PICTURE) -> tuple[int, int]:
    """Return the (height, width) nearest to the wanted `size` whose sides are multiples of `patch`; see `lay_out`."""
    return lay_out(height, width, size, patch, "resize", name).canvas


def resize(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize uint8 [B, C, H, W] to uint8 [B, C, h, w] with `size` = (h, w), bicubic, antialiased.

    Fastest on channels-last memory, such as a [1, C, H, W] view of an array [H, W, C].
    """
    if pictures.shape[-2:] == torch.Size(size):
        return pictures
    return interpolate(pictures, size=size, mode="bicubic", antialias=True, align_corners=False)


def to_tensor(picture: NDArray[np.uint8]) -> Tensor:
    """View an array uint8 [H, W, C] as a tensor uint8 [1, C, H, W] in channels-last memory."""
    if not (picture.flags.writeable and picture.flags.c_contiguous):
        picture = picture.copy()
    return torch.from_numpy(picture).permute(2, 0, 1)[None]


def to_grid(picture: NDArray[np.uint8], size: Size, patch: int, name: str = PICTURE) -> Tensor:
    """Resize a picture uint8 [H, W, C] onto the patch grid -> uint8 [C, h, w]; see `lay_out`."""
    return place(picture, lay_out(picture.shape[0], picture.shape[1], size, patch, "resize", name))


def place(picture: NDArray[np.uint8], layout: Layout, fill: Sequence[int] = ()) -> Tensor:
    """Bring a picture uint8 [H, W, C] into its view uint8 [C, h, w]; `fill`: the colour around it, C values."""
    content = resize(to_tensor(picture), layout.content)[0]
    if layout.content == layout.canvas:
        return content.contiguous()
    view = torch.tensor(fill, dtype=torch.uint8)[:, None, None].repeat(1, *layout.canvas)
    view[:, : layout.content[0], : layout.content[1]] = content
    return view


def _wanted(height: int, width: int, size: Size) -> tuple[float, float]:
    if size == "native":
        return float(height), float(width)
    if _is_count(size):
        scale = size / min(height, width)  # type: ignore[operator]
        return height * scale, width * scale
    if isinstance(size, (tuple, list)) and len(size) == 2 and all(_is_count(side) for side in size):
        return float(size[0]), float(size[1])
    raise UserError(f"size is {size!r}", _SIZE_HINT)


def _multiples(counts: Sequence[int], size: Size, multiple: int, name: str, most: int | None) -> tuple[int, int]:
    rows, cols = (max(1, count) for count in counts)
    most = MAX_PATCHES if most is None else most
    if rows * cols > most:
        hint = f"at most {most} of {multiple} pixels: give a smaller size, or both sides"
        raise ReadError(name, Finding(f"has too many patches at size {size}", hint))
    return rows * multiple, cols * multiple


def _is_count(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and 0 < int(value) < 2**31
