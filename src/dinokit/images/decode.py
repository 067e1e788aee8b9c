"""From the bytes of a picture file to uint8 pixels, upright and in sRGB, by the fastest decoder that is exact.

JPEG goes through simplejpeg (two to three times as fast as Pillow and equal to it), HEIC through pillow-heif, TIFF
beyond Pillow through tifffile, all else through Pillow. The number of pixels is bounded before any is decoded, and a
picture is whole or an error, never half grey.
"""

import io
import logging
import warnings
from collections.abc import Callable

import simplejpeg
from PIL import Image

from dinokit.images import kinds, tiff
from dinokit.images.from_pillow import from_pillow
from dinokit.images.kinds import UnreadableError
from dinokit.images.pixels import Pixels, check_size, to_channels, too_large, turn_upright
from dinokit.images.profiles import conversion
from dinokit.images.segments import before_pixels, check_parts, is_jpeg

_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000")
_EXIF, _PROFILE = b"Exif\0\0", b"ICC_PROFILE\0"
_EXIF_MARKS = {
    "JPEG": (_EXIF,),
    "MPO": (_EXIF,),
    "PNG": (b"eXIf", b"Raw profile type exif"),
    "WEBP": (b"EXIF",),
}
_ORIENTATION = 0x0112
_TURNED_BY_DECODER = ("TIFF", "HEIF")

# Pillow warns at half of its limit, where ours decides, and of oddities in tags that do not matter here.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, module="PIL")
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")
logging.getLogger("PIL").addHandler(logging.NullHandler())  # what it would print is said by the error


def decode(data: bytes, at_least: int, channels: int, page: int = 0) -> Pixels:
    """Decode to [H, W, channels]; a JPEG perhaps smaller, see `images.read.read`. Raises `UnreadableError`.

    page: which picture of a TIFF, below `count_pages`.
    """
    if is_jpeg(data) and channels in (1, 3):
        picture = _decode_jpeg(data, at_least)
        if picture is not None:
            return to_channels(picture, channels)
    if tiff.is_tiff(data) and tiff.is_beyond_pillow(data, channels, page):
        return tiff.decode(data, channels, page)
    image = _open(data, page)
    return from_pillow(image, _orientation(image, data), channels)


def measure(data: bytes) -> tuple[int, int]:
    """Return (height, width) of the upright picture, without decoding it. Raises `UnreadableError`."""
    if tiff.is_tiff(data) and tiff.is_beyond_pillow(data, channels=3):
        return tiff.measure(data)
    image = _open(data)
    return (image.width, image.height) if _orientation(image, data) >= 5 else (image.height, image.width)


def count_pages(data: bytes) -> int:
    """Return how many pictures a TIFF holds; other files count as one. Raises `UnreadableError`."""
    return tiff.count_pages(data) if tiff.is_tiff(data) else 1


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation 1..8 of a Pillow picture; 1 where there is none or it is nonsense."""
    if image.format in _TURNED_BY_DECODER:
        return 1
    try:
        turn = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a broken tag block does not make a picture unreadable
        return 1
    return turn if isinstance(turn, int) and 1 <= turn <= 8 else 1


def _orientation(image: Image.Image, data: bytes) -> int:
    """The same without decoding (Pillow decodes a PNG to look for the tag)."""
    marks = _EXIF_MARKS.get(image.format or "")
    return orientation(image) if marks is None or any(mark in data for mark in marks) else 1


def _decode_jpeg(data: bytes, at_least: int) -> Pixels | None:
    """Decode with simplejpeg; None for variants that it refuses and Pillow may know."""
    head = before_pixels(data)
    header = _open(data) if _EXIF in head or _PROFILE in head else None
    to_srgb = None if header is None else conversion(header.info.get("icc_profile"), header.mode)
    if to_srgb is not None and to_srgb.mode != "RGB":  # a profile of grey or of inks, not of what simplejpeg gives
        return None
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        check_size(height, width)
        factor = _reduction(min(height, width), at_least)
        rows, columns = -(-height // factor), -(-width // factor)
        picture: Pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=rows, min_width=columns)
    except ValueError as error:
        text = str(error).lower()
        if "premature end of data segment" in text or "corrupt jpeg data: bad huffman" in text:
            raise UnreadableError(kinds.DAMAGED) from None  # Pillow would fill the rest with grey
        return None
    if to_srgb is not None:
        to_srgb.of_pixels(picture)
    return turn_upright(picture, 1 if header is None else orientation(header))


def _reduction(short_side: int, at_least: int) -> int:
    """Return the largest power of two, up to 8, by which a JPEG may be decoded smaller (others are slow)."""
    factor = 1
    while 0 < at_least <= short_side // (2 * factor) and factor < 8:
        factor *= 2
    return factor


def _open(data: bytes, page: int = 0) -> Image.Image:
    """Open the header, bounded."""
    check_parts(data)
    try:
        image = _open_heic(data) if kinds.is_heic(data) else Image.open(io.BytesIO(data), formats=_FORMATS)
        if page:
            image.seek(page)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnreadableError(too_large("has too many pixels")) from None
    except UnreadableError:
        raise
    except Exception:  # decoders raise anything on hostile bytes
        raise UnreadableError(kinds.explain(data)) from None
    check_size(image.height, image.width)
    return image


def _open_heic(data: bytes) -> Image.Image:
    """Open a file of HEIC's kind; some that say so are AVIF inside, which Pillow knows."""
    if b"av01" in data[:4096]:
        return Image.open(io.BytesIO(data), formats=("AVIF",))
    try:
        import pillow_heif
    except ImportError:
        raise UnreadableError(kinds.WITHOUT_HEIF) from None
    open_heif: Callable[[io.BytesIO], Image.Image] = pillow_heif.HeifImageFile
    return open_heif(io.BytesIO(data))
