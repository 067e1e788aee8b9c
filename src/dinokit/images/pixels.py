"""Arrays of pixels: any number format to uint8, any number of channels to the network's, upright.

One rule brings numbers to 0..255, and clips none. Whole numbers from 0 on have white at 2^b - 1, where b are the
fewest bits, 8 at least, that hold the greatest of the picture: 255, 4095 or 65535, whatever the file's format could
hold (microscopes and satellites fill 16 bits to a few per cent). Other numbers are shares of white where all lie
within 0..1; else the least becomes 0 and the greatest 255. Work goes in bands of rows, so that a large picture does
not take several times its size.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinokit.images.kinds import DAMAGED, Finding, UnreadableError

MAX_PIXELS = 178_000_000
"""The largest picture that is decoded (Pillow itself refuses a little above)."""

_BAND_PIXELS = 1 << 18

Pixels = NDArray[np.uint8]


def check_size(height: int, width: int) -> None:
    """Refuse pictures above `MAX_PIXELS`, and such as claim to have no pixel, before they are decoded."""
    if height < 1 or width < 1:
        raise UnreadableError(DAMAGED)
    if height * width > MAX_PIXELS:
        raise UnreadableError(too_large(f"has {width} × {height} pixels, above the limit"))


def too_large(reason: str) -> Finding:
    """What is said of a picture beyond the limits."""
    return Finding(reason, f"make it smaller or cut it up (at most {MAX_PIXELS // 10**6} million pixels)")


def bands(height: int, width: int) -> Iterator[slice]:
    """Yield the rows of a picture, some at a time."""
    rows = max(_BAND_PIXELS // width, 1)
    for top in range(0, height, rows):
        yield slice(top, min(top + rows, height))


def to_bytes(values: NDArray[Any]) -> Pixels:
    """Bring [H, W] or [H, W, C] of any number format to uint8 by the rule above.

    Raises `UnreadableError` for what is no real number, and for NaN and infinity.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind not in "buif":
        raise UnreadableError(Finding(f"holds {values.dtype} values", "give uint8, uint16 or floats"))
    black, white = _black_and_white(values)
    result = np.empty(values.shape, np.uint8)
    if values.dtype == np.uint16:  # a table is several times as fast
        table = _scale(np.arange(65536).clip(max=white), black, white)
        for rows in bands(*values.shape[:2]):
            result[rows] = table[values[rows]]
        return result
    for rows in bands(*values.shape[:2]):
        result[rows] = _scale(values[rows], black, white)
    return result


def to_channels(picture: Pixels, channels: int) -> Pixels:
    """Bring [H, W, k] to [H, W, channels].

    One channel of a colour picture is its luminance (ITU-R BT.601, as Pillow's); three of a grey one are the same;
    four are colour and opacity, laid on white, where one or three are wanted. Any other number must be the
    picture's own. Raises `UnreadableError` where it is not.
    """
    found = picture.shape[2]
    if found == channels:
        return picture
    if channels == 3 and found == 1:
        return np.repeat(picture, 3, axis=2)
    if channels in (1, 3) and found == 4:
        return to_channels(on_white(picture), channels)
    if channels == 1 and found == 3:
        return _banded(_luminance, picture, 1)
    hint = "give pictures with as many, or with 1, 3 or 4" if channels in (1, 3) else "give pictures with as many"
    reason = f"has {found} channel{'s' if found > 1 else ''} where the network reads {channels}"
    raise UnreadableError(Finding(reason, hint))


def on_white(rgba: Pixels) -> Pixels:
    """Lay [H, W, 4] on a white ground -> [H, W, 3]."""
    return _banded(lay_on_white, rgba, 3)


def lay_on_white(band: Pixels) -> Pixels:
    """`on_white` of a few rows, all at once."""
    alpha = band[:, :, 3:].astype(np.uint16)
    colour = band[:, :, :3].astype(np.uint16)
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def turn_upright(picture: Pixels, turn: int) -> Pixels:
    """Undo the EXIF orientation `turn`, 1..8, of [H, W, C]; the picture itself where there is nothing to do."""
    if turn == 1:
        return picture
    height, width, channels = picture.shape
    upright, stored = empty_upright(height, width, channels, turn)
    stored[:] = picture
    return upright


def empty_upright(height: int, width: int, channels: int, turn: int) -> tuple[Pixels, Pixels]:
    """An upright picture to be filled, and the view of it [height, width, C] in which its pixels are stored."""
    shape = (width, height, channels) if turn >= 5 else (height, width, channels)
    upright = np.empty(shape, np.uint8)
    stored: Pixels = upright
    if turn in (3, 4, 7, 8):
        stored = stored[::-1]
    if turn in (2, 3, 6, 7):
        stored = stored[:, ::-1]
    return upright, stored.swapaxes(0, 1) if turn >= 5 else stored  # 5 to 8 are mirrored along the main diagonal


def _black_and_white(values: NDArray[Any]) -> tuple[float, float]:
    """What becomes 0 and what 255."""
    least, greatest = float(values.min()), float(values.max())
    if not (math.isfinite(least) and math.isfinite(greatest)):
        raise UnreadableError(Finding("holds NaN or infinite values", "replace them with numbers first"))
    if values.dtype.kind in "ui" and least >= 0:
        return 0.0, 2.0 ** max(int(values.max()).bit_length(), 8) - 1
    return (0.0, 1.0) if least >= 0 and greatest <= 1 else (least, greatest)


def _scale(values: NDArray[Any], black: float, white: float) -> Pixels:
    half = white / 2 - black / 2  # halves: the difference of two float64 may be beyond float64
    if not half:
        return np.zeros(values.shape, np.uint8)
    shares = (values.astype(np.float64) / 2 - black / 2) / half
    return np.floor(shares * 255 + 0.5).astype(np.uint8)


def _luminance(band: Pixels) -> Pixels:
    red, green, blue = (band[:, :, i : i + 1].astype(np.uint32) for i in range(3))
    return ((299 * red + 587 * green + 114 * blue + 500) // 1000).astype(np.uint8)


def _banded(work: Callable[[Pixels], Pixels], picture: Pixels, channels: int) -> Pixels:
    result = np.empty((*picture.shape[:2], channels), np.uint8)
    for rows in bands(*picture.shape[:2]):
        result[rows] = work(picture[rows])
    return result
