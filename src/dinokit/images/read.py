"""From a file, bytes, a Pillow picture or an array to uint8 RGB, upright.

JPEG goes through simplejpeg (two to three times as fast as Pillow and equal to it), all else through
Pillow. The EXIF orientation is applied, see-through pixels are laid on white, 16-bit grey is scaled,
animations give their first frame; colour profiles are ignored. A picture is whole or an error, never half
grey, and its number of pixels is bounded before any is decoded.
"""

import io
import os
import stat
import warnings
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from dinokit.errors import UserError
from dinokit.images import kinds, pixels

Picture = NDArray[np.uint8]
"""uint8 [H, W, 3], RGB, upright."""

Source = str | os.PathLike[str] | bytes | Image.Image | Picture
"""What a picture can be given as."""

MAX_PIXELS = 178_000_000
"""The largest picture that is decoded (Pillow itself refuses a little above)."""
MAX_BYTES = 256 << 20
"""The largest picture file that is read."""

_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000")
_EXIF_MARKS = {
    "JPEG": (b"Exif\0\0",),
    "MPO": (b"Exif\0\0",),
    "PNG": (b"eXIf", b"Raw profile type exif"),
    "WEBP": (b"EXIF",),
}
_ORIENTATION = 0x0112
_UNKNOWN_RANGE = ("I", "F")

# Pillow warns at half of its limit, where ours decides, and of oddities in tags that do not matter here.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, module="PIL")
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")


class ReadError(UserError):
    """A picture that cannot be read; `reason` says why ("is truncated"), without the name."""

    def __init__(self, name: str, finding: kinds.Finding) -> None:
        super().__init__(f"{name} {finding.reason}", finding.hint)
        self.name = name
        self.reason = finding.reason


def read(source: Source, name: str = "", at_least: int = 0) -> Picture:
    """Read one picture.

    `source`: a path, the bytes of a picture file, a Pillow picture, or a uint8 array [H, W], [H, W, 1], [H,
    W, 3] (RGB) or [H, W, 4] (RGBA). `name` stands for the source in errors (a path names itself).
    `at_least`: when above 0, a JPEG may come back smaller by its own cheap scaling, as long as both sides
    keep that many pixels: several times faster on large photographs; 0 decodes exactly. Returns uint8 [H,
    W, 3], RGB, upright by its EXIF orientation, transparency laid on white. Raises `ReadError` naming the
    file: not found, a folder, empty, truncated, a video, not a picture, too large.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, name or "the array")
    if isinstance(source, Image.Image):
        return _from_pillow(source, name or "the picture", _tag(source))
    data, name = _load(source, name)
    if data.startswith(b"\xff\xd8\xff"):
        picture = _decode_jpeg(data, name, at_least)
        if picture is not None:
            turn = _tag(_open(data, name)) if b"Exif\0\0" in data else 1
            return pixels.turn_upright(picture, turn)
    image = _open(data, name)
    return _from_pillow(image, name, _orientation(image, data))


def size(source: Source, name: str = "") -> tuple[int, int]:
    """Return (height, width) in pixels of the upright picture, without decoding it.

    Takes what `read` takes and raises what it raises, except for faults that only decoding would find.
    """
    if isinstance(source, np.ndarray):
        height, width = source.shape[:2]
        return height, width
    if isinstance(source, Image.Image):
        image, turn = source, _tag(source)
    else:
        data, name = _load(source, name)
        image = _open(data, name)
        turn = _orientation(image, data)
    return (image.width, image.height) if turn >= 5 else (image.height, image.width)


def read_file(path: str | os.PathLike[str], name: str = "") -> bytes:
    """Return the bytes of a regular file of at most `MAX_BYTES`; all else (a pipe would hang) is a `ReadError`."""
    name = name or os.fspath(path)
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise ReadError(name, kinds.Finding("is a folder", "name a picture inside it"))
        if not stat.S_ISREG(status.st_mode):
            raise ReadError(name, kinds.Finding("is not a regular file", "copy the picture into a file"))
        if status.st_size > MAX_BYTES:
            raise ReadError(name, kinds.Finding(f"is larger than {MAX_BYTES >> 20} MiB", "make the picture smaller"))
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise ReadError(name, kinds.Finding("is not found", "check the path")) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ReadError(name, kinds.Finding(f"cannot be read ({reason})", "check the file")) from None


def _load(source: str | os.PathLike[str] | bytes, name: str) -> tuple[bytes, str]:
    """Return the bytes of the file, and its name for messages."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        data, name = bytes(source), name or "the picture"
    else:
        data, name = read_file(source, name), name or os.fspath(source)
    if not data:
        raise ReadError(name, kinds.EMPTY)
    return data, name


def _decode_jpeg(data: bytes, name: str, at_least: int) -> Picture | None:
    """Decode with simplejpeg; None for variants that it refuses and Pillow may know."""
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        _bound(height, width, name)
        factor = _reduction(min(height, width), at_least)
        rows, columns = -(-height // factor), -(-width // factor)
        picture: Picture = simplejpeg.decode_jpeg(data, "RGB", min_height=rows, min_width=columns)
    except ValueError as error:
        text = str(error).lower()
        if "premature end of data segment" in text or "corrupt jpeg data: bad huffman" in text:
            raise ReadError(name, kinds.DAMAGED) from None  # Pillow would fill the rest with grey
        return None
    return picture


def _reduction(short_side: int, at_least: int) -> int:
    """Return the largest power of two, up to 8, by which a JPEG may be decoded smaller (others are slow)."""
    factor = 1
    while 0 < at_least <= short_side // (2 * factor) and factor < 8:
        factor *= 2
    return factor


def _open(data: bytes, name: str) -> Image.Image:
    """Open the header with Pillow, bounded."""
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ReadError(name, _too_large("has too many pixels")) from None
    except Exception:  # decoders raise anything on hostile bytes
        raise ReadError(name, kinds.explain(data)) from None
    _bound(image.height, image.width, name)
    return image


def _bound(height: int, width: int, name: str) -> None:
    """Refuse pictures above `MAX_PIXELS`."""
    if height * width > MAX_PIXELS:
        raise ReadError(name, _too_large(f"has {width} × {height} pixels, above the limit"))


def _too_large(reason: str) -> kinds.Finding:
    return kinds.Finding(reason, f"make it smaller or cut it up (at most {MAX_PIXELS // 10**6} million pixels)")


def _from_pillow(image: Image.Image, name: str, turn: int) -> Picture:
    """Decode, convert to RGB and turn a Pillow picture."""
    try:
        image.load()
        if image.mode not in _UNKNOWN_RANGE:
            return pixels.from_pillow(image, turn)
    except Exception as error:  # decoders raise anything on hostile bytes
        truncated = "truncated" in str(error) or isinstance(error, EOFError)
        raise ReadError(name, kinds.TRUNCATED if truncated else kinds.DAMAGED) from None
    hint = "convert it to 8 or 16 bits a channel first"
    raise ReadError(name, kinds.Finding(f"has {image.mode} values, whose range is unknown", hint))


def _from_array(array: Picture, name: str) -> Picture:
    """Check an array and bring it to [H, W, 3]."""
    if array.dtype != np.uint8:
        hint = "give uint8 values from 0 to 255"
        raise ReadError(name, kinds.Finding(f"holds {array.dtype} values, not uint8", hint))
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or array.size == 0:
        hint = "give [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]"
        raise ReadError(name, kinds.Finding(f"has the shape {list(array.shape)}, which is no picture's", hint))
    if array.shape[2] == 4:
        return pixels.on_white(array)
    return np.ascontiguousarray(np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array)


def _orientation(image: Image.Image, data: bytes) -> int:
    """Return the EXIF orientation 1..8 without decoding (Pillow decodes a PNG to look for the tag)."""
    if image.format == "TIFF":  # Pillow turns these itself
        return 1
    marks = _EXIF_MARKS.get(image.format or "")
    if marks is not None and not any(mark in data for mark in marks):
        return 1
    return _tag(image)


def _tag(image: Image.Image) -> int:
    """Return the EXIF orientation 1..8 of a Pillow picture; 1 where there is none or it is nonsense."""
    if image.format == "TIFF":
        return 1
    try:
        turn = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a broken tag block does not make a picture unreadable
        return 1
    return turn if isinstance(turn, int) and 1 <= turn <= 8 else 1
