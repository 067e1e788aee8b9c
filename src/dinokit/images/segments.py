"""The parts of a file before they are decoded: where a JPEG's metadata ends, and that the parts are not too many.

Decoders look at each part, however small; a hostile file of millions of empty ones would keep them busy for minutes.
"""

from dinokit.images import kinds
from dinokit.images.kinds import UnreadableError

_JPEG_START, _PNG_START = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_JPEG_SEGMENTS, _PNG_CHUNKS = 4096, 100_000


def is_jpeg(data: bytes) -> bool:
    """Whether the file begins as a JPEG."""
    return data.startswith(_JPEG_START)


def before_pixels(data: bytes) -> bytes:
    """The segments of a JPEG before its pixels, among which are its EXIF block and profile; all of an odd file.

    Raises `UnreadableError` for too many.
    """
    place = 2
    for _ in range(_JPEG_SEGMENTS):
        if data[place : place + 1] != b"\xff" or data[place + 1 : place + 2] == b"\xda":
            return data[:place] if data[place : place + 2] == b"\xff\xda" else data
        place += 2 + int.from_bytes(data[place + 2 : place + 4])
    raise UnreadableError(kinds.DAMAGED)


def check_parts(data: bytes) -> None:
    """Raise `UnreadableError` for a JPEG or PNG of too many parts."""
    if is_jpeg(data):
        before_pixels(data)
    elif data.startswith(_PNG_START):
        place = len(_PNG_START)
        for _ in range(_PNG_CHUNKS):
            if place >= len(data):
                return
            place += 12 + int.from_bytes(data[place : place + 4])  # length, name and checksum besides
        raise UnreadableError(kinds.DAMAGED)
