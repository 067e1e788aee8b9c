"""Which pixel belongs to which object: label maps of object numbers (0 is none), as indexed PNGs.

This is how data sets for tracking store them: the numbers are the pixels' values, the palette is for the eye.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dinokit.errors import UserError
from dinokit.images.draw import palette
from dinokit.images.kinds import DAMAGED, Finding, UnreadableError, explain
from dinokit.images.pixels import Pixels, check_size
from dinokit.images.read import ReadError, name_of, read_file

Labels = NDArray[np.uint8]
"""Object numbers [H, W]: 0 for none, 1 to 254; 255 is void: nobody knows."""

VOID = 255
MaskSource = str | os.PathLike[str] | NDArray[Any] | Sequence[Any]
"""A picture of object numbers, such an array [H, W], or one mask (array [H, W] or file) for each object."""

_FORMATS = ("PNG", "BMP", "TIFF", "GIF", "PPM")
_NUMBERS = "give a grey or indexed PNG of object numbers: 0 for none, 1 to 254"


def read_objects(source: MaskSource, name: str = "") -> Labels:
    """Read object numbers [H, W].

    What holds nothing but 0 and 255, or bools, is one object, number 1; of several masks the first is number 1, and
    later ones lie above. Raises `UserError` for pictures that hold no object numbers, for numbers above 255, for
    more than 254 masks, and for masks of several sizes.
    """
    name = name or (name_of(source) if isinstance(source, (str, os.PathLike)) else "the mask")
    if isinstance(source, (str, os.PathLike)):
        return _black_and_white(_numbers(_read_values(source), name))
    if isinstance(source, np.ndarray) and source.ndim == 2:
        return _black_and_white(_numbers(source, name))
    if len(source) > VOID - 1:
        raise UserError(f"{len(source)} masks are too many", f"give at most {VOID - 1}")
    masks = [read_objects(mask, f"mask {number}") for number, mask in enumerate(source, 1)]
    if not masks or len({mask.shape for mask in masks}) > 1:
        raise UserError("the masks have several sizes" if masks else "there is no mask", "give one for each object")
    labels = np.zeros_like(masks[0])
    for number, mask in enumerate(masks, 1):
        labels[mask > 0] = number
    return labels


def read_numbers(path: str | os.PathLike[str]) -> Labels:
    """Read object numbers [H, W] as they are stored, where 255 is always void. Raises `UserError` as `read_objects`."""
    return _numbers(_read_values(path), os.fspath(path))


def has_numbers(labels: Labels) -> bool:
    """Whether there is an object number, not only none and 255."""
    return bool(((labels > 0) & (labels < VOID)).any())


def object_colours() -> Pixels:
    """The colour of each object number, [256, 3]: none is black, void white."""
    colours = np.concatenate([np.zeros((1, 3), np.uint8), palette(VOID)])
    colours[VOID] = 255
    return colours


def _read_values(path: str | os.PathLike[str]) -> NDArray[Any]:
    """The values of the pixels as they are stored, without palette: [H, W] or [H, W, C]."""
    data, name = read_file(path), os.fspath(path)
    try:
        image = Image.open(io.BytesIO(data))
    except Exception:  # decoders raise anything on hostile bytes
        raise ReadError(name, explain(data)) from None
    if image.format not in _FORMATS:
        raise ReadError(name, Finding(f"is a {image.format}, which does not keep numbers", _NUMBERS))
    try:
        check_size(image.height, image.width)
        return np.asarray(image)
    except UnreadableError as problem:
        raise ReadError(name, problem.finding) from None
    except Exception:
        raise ReadError(name, DAMAGED) from None


def _numbers(values: NDArray[Any], name: str) -> Labels:
    """Any array of object numbers as uint8 [H, W]."""
    if values.ndim == 3 and values.shape[2] in (3, 4) and not np.ptp(values[:, :, :3], axis=2).any():
        values = values[:, :, 0]  # grey, stored as colour
    if values.ndim != 2 or not values.size:
        what = "is a colour picture" if values.ndim == 3 else f"has the shape {list(values.shape)}"
        raise ReadError(name, Finding(f"{what}, not object numbers", _NUMBERS))
    if values.dtype.kind not in "biuf" or not (np.mod(values, 1) == 0).all():
        raise ReadError(name, Finding("holds values that are no whole numbers", _NUMBERS))
    least, greatest = values.min(), values.max()
    if least < 0 or greatest > VOID:
        raise ReadError(name, Finding(f"holds object number {least if least < 0 else greatest}", _NUMBERS))
    return values.astype(np.uint8)


def _black_and_white(labels: Labels) -> Labels:
    """A mask of nothing but 0 and 255 means one object, not void."""
    return labels if has_numbers(labels) else (labels > 0).astype(np.uint8)
