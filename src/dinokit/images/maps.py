"""Pictures whose values are no colours: one class, or one depth, a pixel.

They are read as they are, without colour conversion; what has several channels is refused.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dinokit.errors import UserError
from dinokit.images.kinds import UnreadableError
from dinokit.images.pixels import MAX_PIXELS, check_size
from dinokit.images.read import read_file

_ONE_CHANNEL = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "F")


@dataclass(frozen=True)
class MapFile:
    """A map as it lies: a file, or a member of a shard."""

    name: str
    """Its path, or SHARD.tar/MEMBER; the ending says what it is."""
    load: Callable[[], bytes]
    """Its bytes; raises `ReadError`."""

    @staticmethod
    def of(path: str | os.PathLike[str]) -> MapFile:
        """The file at `path`."""
        return MapFile(Path(path).as_posix(), partial(read_file, path))

    @property
    def ending(self) -> str:
        """Such as .png, in lower case."""
        return Path(self.name).suffix.lower()


def read_map(file: MapFile) -> NDArray[Any]:
    """The values [H, W] of an indexed or one-channel picture, or of an array in an .npy file; numbers as stored.

    Raises `UserError` naming the file: unreadable, of colours, too large, or no array of numbers [H, W].
    """
    path, data = file.name, file.load()
    if file.ending == ".npy":
        return _read_array(path, data)
    try:
        with Image.open(io.BytesIO(data)) as image:
            check_size(image.height, image.width)
            if image.mode not in _ONE_CHANNEL:
                raise UserError(f"{path} has colours, not one number a pixel", "give indexed or grey pictures")
            values = np.array(image)
    except UserError:
        raise
    except UnreadableError as problem:
        raise UserError(f"{path} {problem.finding.reason}", problem.finding.hint) from None
    except Exception as problem:  # decoders raise anything on damaged files
        raise _unreadable(path, problem) from None
    return values.astype(np.uint8) if values.dtype == bool else values


def _read_array(path: str, data: bytes) -> NDArray[Any]:
    try:
        values = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as problem:  # so does a damaged header, whose shape may be larger than memory
        raise _unreadable(path, problem) from None
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind not in "iuf":
        raise UserError(f"{path} is no array of numbers [H, W]", "store one number a pixel")
    if not 0 < values.size <= MAX_PIXELS:
        raise UserError(f"{path} has {values.shape[1]} x {values.shape[0]} values", f"give 1 to {MAX_PIXELS:,}")
    return values


def _unreadable(path: str, problem: Exception) -> UserError:
    reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
    return UserError(f"{path} cannot be read ({reason[:120]})", "make the file anew")
