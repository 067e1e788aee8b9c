"""Sizes on the patch grid, and the one resize that all pictures go through.

A network of patch size p needs sides that are multiples of p. Sides are rounded to the nearest multiple, so
the aspect changes by at most half a patch and nothing is ever cropped. The resize is torch's bicubic with
antialiasing on uint8, several times faster than Pillow's and within 1/255 of it (a value in 100,000: 2/255)
where both go along the rows first; Pillow 13 starts with the cheaper axis, which moves values by up to 5/255.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from dinokit.errors import UserError
from dinokit.images.kinds import Finding
from dinokit.images.read import ReadError

Size = int | Sequence[int] | Literal["native"]
"""The size to work at, in pixels: the short side, or (height, width), or "native"."""

MAX_PATCHES = 262_144
"""The most patches that one picture may become: four times 4096 x 4096 pixels in patches of 16."""

_SIZE_HINT = 'give the short side in pixels, (height, width), or "native"'


def fit_to_grid(height: int, width: int, size: Size, patch: int, name: str = "the picture") -> tuple[int, int]:
    """Return the (height, width) nearest to the wanted `size` whose sides are multiples of `patch`.

    `height`, `width`: of the picture, in pixels. `size`: int = its short side afterwards, aspect kept;
    (height, width) = both sides; "native" = as it is. Each side is rounded to the nearest multiple of
    `patch`, one patch at least. Raises `UserError` naming `size` if it is none of these, and `ReadError` with
    the picture's `name` for more than `MAX_PATCHES`.
    """
    if size == "native":
        wanted = (float(height), float(width))
    elif _is_count(size):
        scale = size / min(height, width)  # type: ignore[operator]
        wanted = (height * scale, width * scale)
    elif isinstance(size, (tuple, list)) and len(size) == 2 and all(_is_count(side) for side in size):
        wanted = (float(size[0]), float(size[1]))
    else:
        raise UserError(f"size is {size!r}", _SIZE_HINT)
    rows, cols = (max(1, math.floor(side / patch + 0.5)) for side in wanted)
    if rows * cols > MAX_PATCHES:
        hint = f"at most {MAX_PATCHES} of {patch} pixels: give a smaller size, or both sides"
        raise ReadError(name, Finding(f"has too many patches at size {size}", hint))
    return rows * patch, cols * patch


def resize(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize uint8 [B, 3, H, W] to uint8 [B, 3, h, w] with `size` = (h, w), bicubic, antialiased.

    Fastest on channels-last memory, such as a [1, 3, H, W] view of an array [H, W, 3].
    """
    if pictures.shape[-2:] == torch.Size(size):
        return pictures
    return interpolate(pictures, size=size, mode="bicubic", antialias=True, align_corners=False)


def to_tensor(picture: NDArray[np.uint8]) -> Tensor:
    """View an array uint8 [H, W, 3] as a tensor uint8 [1, 3, H, W] in channels-last memory."""
    if not (picture.flags.writeable and picture.flags.c_contiguous):
        picture = picture.copy()
    return torch.from_numpy(picture).permute(2, 0, 1)[None]


def to_grid(picture: NDArray[np.uint8], size: Size, patch: int, name: str = "the picture") -> Tensor:
    """Resize a picture uint8 [H, W, 3] onto the patch grid -> uint8 [3, h, w]; see `fit_to_grid`."""
    target = fit_to_grid(picture.shape[0], picture.shape[1], size, patch, name)
    return resize(to_tensor(picture), target)[0].contiguous()


def _is_count(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and 0 < int(value) < 2**31
