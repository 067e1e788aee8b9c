"""What a file is that cannot be read as a picture, or as weights, told from its first bytes.

"cannot identify image file" helps nobody: most unreadable "pictures" are videos, web pages that a download
left behind, or formats that need converting. The table here turns each into a reason and a remedy.
"""

from typing import NamedTuple


class Finding(NamedTuple):
    """Why a file is not read, and what to do about it."""

    reason: str
    """Continues the sentence that starts with the file's name, for example "is a video"."""
    hint: str
    """What to do, as an imperative."""


class UnreadableError(Exception):
    """What was given is no picture that can be read; `images.read` adds its name and makes it a `ReadError`."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.reason)
        self.finding = finding


NOT_A_PICTURE = Finding("is not a picture", "give a JPEG, PNG, WebP, AVIF, HEIC, GIF, BMP or TIFF file")
EMPTY = Finding("is empty", "copy or download it again")
TRUNCATED = Finding("is truncated", "copy or download it again")
DAMAGED = Finding("is damaged", "copy or download it again")
VIDEO = Finding("is a video", "extract its frames first, for example: ffmpeg -i VIDEO frame-%05d.jpg")

_WEB_PAGE = Finding("is a web page that a download left behind", "download the file itself")
_GIT_LFS = Finding("is a Git LFS pointer, not the file that it stands for", "fetch it with: git lfs pull")
_PDF = Finding("is a PDF, not a picture", "export its pages as PNG first")
_ARCHIVE = Finding("is an archive, not a picture", "unpack it first (only tar shards are read as they are)")

WITHOUT_HEIF = Finding(
    "is a HEIC picture, which needs pillow-heif", "pip install 'dinokit[heif]', or convert it to JPEG first"
)
WITHOUT_GEO = Finding(
    "is a TIFF that needs tifffile and imagecodecs (more than 8 bits, many bands), or damaged",
    "pip install 'dinokit[geo]', or convert it to 8 bits first",
)

_STARTS = (
    (b"\x1a\x45\xdf\xa3", VIDEO),  # Matroska, WebM
    (b"\x00\x00\x01\xba", VIDEO),  # MPEG program stream
    (b"\x00\x00\x01\xb3", VIDEO),  # MPEG video
    (b"FLV\x01", VIDEO),
    (b"OggS", VIDEO),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", VIDEO),  # ASF, WMV
    (b"%PDF", _PDF),
    (b"PK\x03\x04", _ARCHIVE),
    (b"\x1f\x8b", _ARCHIVE),
    (b"7z\xbc\xaf", _ARCHIVE),
    (b"Rar!", _ARCHIVE),
)
_PICTURE_BRANDS = (b"avif", b"avis")
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_QUICKTIME_BOXES = (b"moov", b"mdat", b"wide", b"pnot")


def explain(data: bytes) -> Finding:
    """Say what `data`, the bytes of a file that no picture decoder opened, is."""
    stand_in = explain_stand_in(data)
    if stand_in is not None:
        return stand_in
    for start, finding in _STARTS:
        if data.startswith(start):
            return finding
    if data[4:8] == b"ftyp":
        return _explain_iso_media(data[8:12])
    if data[4:8] in _QUICKTIME_BOXES or (data[:4] == b"RIFF" and data[8:12] == b"AVI "):
        return VIDEO
    if len(data) > 376 and data[0] == data[188] == data[376] == 0x47:  # MPEG transport stream
        return VIDEO
    if data[257:262] == b"ustar":
        return _ARCHIVE
    return NOT_A_PICTURE


def explain_stand_in(data: bytes) -> Finding | None:
    """Say what lies where a file of any kind should be: nothing, a web page, a Git LFS pointer; None: something."""
    if not data:
        return EMPTY
    if data.startswith(b"version https://git-lfs.github.com/spec/"):
        return _GIT_LFS
    head = data[:512].lstrip().lower()
    return _WEB_PAGE if head.startswith((b"<!doctype html", b"<html")) else None


def _explain_iso_media(brand: bytes) -> Finding:
    """Tell pictures from videos among files of the ISO base media format, by their major brand."""
    return DAMAGED if brand in _PICTURE_BRANDS + _HEIC_BRANDS else VIDEO


def is_heic(data: bytes) -> bool:
    """Whether a file says of itself that it is a HEIC picture, or one of its relatives."""
    return data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS
