"""TIFF beyond Pillow: 16 bits a colour, floats, many bands; read by tifffile (extra `geo`).

Pillow cuts 16-bit colours to 8 bits without a word and drops bands, so the tags are looked at first. Only lossless
codecs whose output is bounded by the size of their strip or tile are let in.
"""

import io
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dinokit.images import kinds
from dinokit.images.kinds import Finding, UnreadableError
from dinokit.images.pixels import MAX_PIXELS, Pixels, check_size, to_bytes, to_channels, too_large, turn_upright
from dinokit.images.profiles import conversion

MAX_VALUES_BYTES = 8 * MAX_PIXELS
"""The most that the values of one page may take: four bands of 16 bits at the largest number of pixels."""

_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BITS, _SAMPLES, _ORIENTATION = 258, 277, 274
_HEIGHT, _STRIPS, _ROWS_OF_STRIP, _TILES = 257, 273, 278, 324
_BOUNDED_CODECS = {1: "none", 5: "LZW", 8: "deflate", 32946: "deflate", 32773: "PackBits", 34925: "LZMA", 50000: "ZSTD"}
_RGB = 2
_ALPHA = (1, 2)

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # its warnings are errors of ours, or nothing


def is_tiff(data: bytes) -> bool:
    """Whether the file begins as a TIFF or BigTIFF."""
    return data[:4] in _STARTS


def is_beyond_pillow(data: bytes, channels: int, page: int = 0) -> bool:
    """Whether Pillow would not read this page, or not all that it holds and `channels` ask for.

    Raises `UnreadableError` for a page that lacks rows, which Pillow would fill with black.
    """
    try:
        image: Any = Image.open(io.BytesIO(data), formats=("TIFF",))
        image.seek(page)
        bits, samples = image.tag_v2.get(_BITS, (1,)), image.tag_v2.get(_SAMPLES, 1)
        if _lacks_rows(image.tag_v2):
            raise UnreadableError(kinds.TRUNCATED)
        if samples == 1:
            return bool(image.mode == "I")  # 16-bit signed and 32-bit integers: their signs get lost
        return max(bits) > 8 or (channels not in (1, 3) and samples != len(image.getbands()))
    except UnreadableError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return False
    except Exception:  # hostile tags
        return True


def decode(data: bytes, channels: int, number: int = 0) -> Pixels:
    """Decode one page to uint8 [H, W, channels], upright."""
    with _open_page(data, number) as page:
        values = _values(page)
        if channels in (1, 3) and page.photometric == _RGB and values.shape[2] > 3:
            see_through = values.shape[2] == 4 and tuple(page.extrasamples) in ((kind,) for kind in _ALPHA)
            values = values if see_through else values[:, :, :3]
        picture = np.ascontiguousarray(to_bytes(values))
        to_srgb = conversion(page.iccprofile, "RGB") if channels in (1, 3) and picture.shape[2] == 3 else None
        if to_srgb is not None:
            to_srgb.of_pixels(picture)
        turn = page.tags.valueof(_ORIENTATION, 1)
        return to_channels(turn_upright(picture, turn if turn in range(1, 9) else 1), channels)


def measure(data: bytes) -> tuple[int, int]:
    """Return (height, width) of the first page, upright."""
    with _open_page(data) as page:
        height, width = page.imagelength, page.imagewidth
        return (width, height) if page.tags.valueof(_ORIENTATION, 1) in range(5, 9) else (height, width)


def count_pages(data: bytes) -> int:
    """Return the number of pages."""
    try:
        image: Any = Image.open(io.BytesIO(data), formats=("TIFF",))
        return int(image.n_frames)
    except Exception:  # one that Pillow cannot open at all
        with _open_page(data) as page:
            return len(page.parent.pages)


def _lacks_rows(tags: Any) -> bool:
    rows_of_strip = tags.get(_ROWS_OF_STRIP, tags[_HEIGHT])
    return _TILES not in tags and bool(len(tags.get(_STRIPS, ())) * rows_of_strip < tags[_HEIGHT])


@contextmanager
def _open_page(data: bytes, number: int = 0) -> Iterator[Any]:
    """Open one page, bounded; whatever goes wrong with it is `UnreadableError`."""
    try:
        import imagecodecs  # noqa: F401 (without it tifffile unpacks without bounds)
        import tifffile
    except ImportError:
        raise UnreadableError(kinds.WITHOUT_GEO) from None
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = file.pages[number]
            _check(page, len(data))
            yield page
    except UnreadableError:
        raise
    except Exception:  # hostile tags raise anything
        raise UnreadableError(kinds.DAMAGED) from None


def _check(page: Any, length: int) -> None:
    check_size(page.imagelength, page.imagewidth)
    if page.imagelength * page.imagewidth * page.samplesperpixel * page.bitspersample > 8 * MAX_VALUES_BYTES:
        raise UnreadableError(too_large(f"has {page.samplesperpixel} bands, more than {MAX_VALUES_BYTES >> 20} MiB"))
    if page.compression not in _BOUNDED_CODECS:
        names = ", ".join(dict.fromkeys(_BOUNDED_CODECS.values()))
        reason = f"is a TIFF compressed by {getattr(page.compression, 'name', page.compression)}"
        raise UnreadableError(Finding(reason, f"save it uncompressed, or by one of: {names}"))
    offsets, counts = page.dataoffsets, page.databytecounts
    lost_bits = page.samplesperpixel > 1 and _BITS not in page.tags  # lay beyond the end; tifffile assumes single bits
    lost_strips = math.prod(page.chunked) > min(len(offsets), len(counts))
    beyond_the_end = any(offset + count > length for offset, count in zip(offsets, counts, strict=False))
    too_short = page.compression == 1 and all(counts) and sum(counts) < page.nbytes
    if lost_bits or lost_strips or beyond_the_end or too_short:
        raise UnreadableError(kinds.TRUNCATED)


def _values(page: Any) -> NDArray[Any]:
    """The values of a page as [H, W, C]."""
    values: NDArray[Any] = page.asarray(maxworkers=1)
    if page.axes == "SYX":
        values = values.transpose(1, 2, 0)
    elif page.axes == "YX":
        values = values[:, :, None]
    if page.axes not in ("SYX", "YX", "YXS") or values.size == 0:
        raise UnreadableError(Finding(f"is a TIFF with axes {page.axes}", "save it with one plane for each band"))
    return values
