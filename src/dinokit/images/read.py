"""From a file, bytes, a Pillow picture, an array or a tensor to uint8 pixels, upright and in sRGB.

The EXIF orientation and colour profiles are applied, see-through pixels are laid on white, other numbers than bytes
are scaled by the one rule of `images.pixels`, animations give their first frame and TIFFs their first page. A
picture is whole or an error, and what is wrong is said with the name of the file.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dinokit.errors import UserError
from dinokit.images import decode, kinds
from dinokit.images.from_pillow import from_pillow
from dinokit.images.kinds import Finding, UnreadableError
from dinokit.images.pixels import Pixels, check_size, to_bytes, to_channels

Picture = Pixels
"""uint8 [H, W, C], RGB where C is 3, upright."""

Source = str | os.PathLike[str] | bytes | Image.Image | NDArray[Any] | Tensor
"""What a picture can be given as."""

MAX_BYTES = 256 << 20
"""The largest picture file that is read."""

_UNKNOWN_TO_NUMPY = (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)


class ReadError(UserError):
    """A picture that cannot be read; `reason` says why ("is truncated"), without the name."""

    def __init__(self, name: str, finding: Finding) -> None:
        super().__init__(f"{name} {finding.reason}", finding.hint)
        self.name = name
        self.reason = finding.reason


def read(source: Source, name: str = "", at_least: int = 0, channels: int = 3) -> Picture:
    """Read one picture.

    `source`: a path, the bytes of a picture file, a Pillow picture, an array [H, W] or [H, W, C], or a tensor [C, H,
    W], of any real numbers (`images.pixels` says how they are scaled). `name` stands for the source in errors (a
    path names itself). `at_least`: when above 0, a JPEG may come back smaller by its own cheap scaling, as long as
    both sides keep that many pixels: several times faster on large photographs; 0 decodes exactly. Returns uint8 [H,
    W, channels], upright by its EXIF orientation: 3 are RGB in sRGB, transparency laid on white, 1 is their
    luminance; any other number the picture must have itself. Raises `ReadError` naming the file: not found, a
    folder, empty, truncated, a video, not a picture, too large, of other channels.
    """
    name = name or name_of(source)
    try:
        if isinstance(source, (np.ndarray, Tensor)):
            return to_channels(to_bytes(_values(source)), channels)
        if isinstance(source, Image.Image):
            check_size(source.height, source.width)
            return from_pillow(source, decode.orientation(source), channels)
        return decode.decode(_load(source, name), at_least, channels)
    except UnreadableError as problem:
        raise ReadError(name, problem.finding) from None


def read_pages(source: str | os.PathLike[str] | bytes, name: str = "", channels: int = 3) -> Iterator[Picture]:
    """Read the pages of a TIFF as one picture each, one after another; any other file has a single one.

    Arguments, pictures and errors are those of `read`.
    """
    name = name or name_of(source)
    try:
        data = _load(source, name)
        for page in range(decode.count_pages(data)):
            yield decode.decode(data, 0, channels, page)
    except UnreadableError as problem:
        raise ReadError(name, problem.finding) from None


def size(source: Source, name: str = "") -> tuple[int, int]:
    """Return (height, width) in pixels of the upright picture, without decoding it.

    Takes what `read` takes and raises what it raises, except for faults that only decoding would find.
    """
    name = name or name_of(source)
    try:
        if isinstance(source, (np.ndarray, Tensor)):
            height, width = _values(source).shape[:2]
            return height, width
        if isinstance(source, Image.Image):
            turned = decode.orientation(source) >= 5
            return (source.width, source.height) if turned else (source.height, source.width)
        return decode.measure(_load(source, name))
    except UnreadableError as problem:
        raise ReadError(name, problem.finding) from None


def name_of(source: object) -> str:
    """What to call a source in messages: its path, or its kind."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    if isinstance(source, (np.ndarray, Tensor)):
        return "the tensor" if isinstance(source, Tensor) else "the array"
    return "the picture"


def read_file(path: str | os.PathLike[str], name: str = "") -> bytes:
    """Return the bytes of a regular file of at most `MAX_BYTES`; all else (a pipe would hang) is a `ReadError`."""
    name = name or os.fspath(path)
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise ReadError(name, Finding("is a folder", "name a picture inside it"))
        if not stat.S_ISREG(status.st_mode):
            raise ReadError(name, Finding("is not a regular file", "copy the picture into a file"))
        if status.st_size > MAX_BYTES:
            raise ReadError(name, Finding(f"is larger than {MAX_BYTES >> 20} MiB", "make the picture smaller"))
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise ReadError(name, Finding("is not found", "check the path")) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ReadError(name, Finding(f"cannot be read ({reason})", "check the file")) from None


def _load(source: object, name: str) -> bytes:
    """Return the bytes of the file."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
    elif isinstance(source, (str, os.PathLike)):
        data = read_file(source, name)
    else:
        raise UnreadableError(
            Finding(f"is of type {type(source).__name__}", "give a path, bytes, a Pillow picture, an array or a tensor")
        )
    if not data:
        raise UnreadableError(kinds.EMPTY)
    return data


def _values(source: NDArray[Any] | Tensor) -> NDArray[Any]:
    """An array or a tensor as [H, W, C]."""
    if isinstance(source, Tensor):
        if source.ndim != 3 or not source.numel():
            raise UnreadableError(_shape(source.shape, "give [C, H, W]"))
        try:
            plain = source.detach().cpu().permute(1, 2, 0)  # [C, H, W] -> [H, W, C]
            return plain.float().numpy() if plain.dtype in _UNKNOWN_TO_NUMPY else plain.numpy()
        except (TypeError, RuntimeError, NotImplementedError):
            reason = f"holds {source.dtype} values ({source.layout} on {source.device})"
            raise UnreadableError(Finding(reason, "give a dense tensor of uint8, uint16 or floats")) from None
    values = source[:, :, None] if source.ndim == 2 else source
    if values.ndim != 3 or not values.size:
        raise UnreadableError(_shape(source.shape, "give [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]"))
    return values


def _shape(shape: tuple[int, ...], hint: str) -> Finding:
    return Finding(f"has the shape {list(shape)}, which is no picture's", hint)
