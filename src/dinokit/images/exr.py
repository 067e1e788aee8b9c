"""OpenEXR pictures of one channel: how renderers give depth.

Read are single parts of scan lines, uncompressed or zipped (ZIP, ZIPS), in float, half or uint32; written is float,
uncompressed. That is what depth comes in, and it spares a library. Source: "OpenEXR File Layout", openexr.com.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dinokit.images.kinds import Finding, UnreadableError
from dinokit.images.pixels import check_size

_START = b"v/1\x01" + struct.pack("<i", 2)
_OTHER_KINDS = 0x200 | 0x800 | 0x1000  # tiles, deep data, several parts
_LINES = {0: 1, 2: 1, 3: 16}
"""Rows in a block, by compression: none, ZIPS, ZIP."""
_FORMATS = ("<u4", "<f2", "<f4")
_MOST_CHANNELS = 256
_LARGEST_BLOCK = 1 << 28
"""Bytes that a block may unpack to."""
_DEPTH_NAMES = ("Z", "V", "Y")
"""Names that the channel of depth may have where there are several, the likeliest first."""


@dataclass(frozen=True)
class _Header:
    width: int
    height: int
    top: int
    compression: int
    channels: list[tuple[str, str]]
    """Name and number format of each, in the order in which the rows hold them."""
    end: int


def read_exr(data: bytes) -> NDArray[np.float32]:
    """The values [H, W] of an EXR file's only channel, or of Z, V or Y. Raises `UnreadableError`."""
    try:
        header = _read_header(data)
        return _read_rows(data, header)
    except (struct.error, IndexError, ValueError, OverflowError, zlib.error):
        raise UnreadableError(Finding("is a damaged EXR file", "write it anew")) from None


def write_exr(values: NDArray[np.float32]) -> bytes:
    """The content of an EXR file whose channel Y, shown as grey by every viewer, has values [H, W]."""
    height, width = values.shape
    window = struct.pack("<4i", 0, 0, width - 1, height - 1)
    attributes = {
        "channels\0chlist": b"Y\0" + struct.pack("<i4xii", 2, 1, 1) + b"\0",
        "compression\0compression": b"\0",
        "dataWindow\0box2i": window,
        "displayWindow\0box2i": window,
        "lineOrder\0lineOrder": b"\0",
        "pixelAspectRatio\0float": struct.pack("<f", 1),
        "screenWindowCenter\0v2f": struct.pack("<2f", 0, 0),
        "screenWindowWidth\0float": struct.pack("<f", 1),
    }
    parts = [name.encode() + b"\0" + struct.pack("<i", len(value)) + value for name, value in attributes.items()]
    header = _START + b"".join(parts) + b"\0"
    row, first = 8 + 4 * width, len(header) + 8 * height
    rows = np.empty(height, dtype=[("y", "<i4"), ("size", "<i4"), ("values", "<f4", (width,))])
    rows["y"], rows["size"], rows["values"] = np.arange(height), 4 * width, values
    offsets = np.arange(first, first + row * height, row, dtype="<u8")
    return b"".join((header, offsets.tobytes(), rows.tobytes()))


def _read_header(data: bytes) -> _Header:
    if data[:4] != _START[:4]:
        raise UnreadableError(Finding("is no EXR file", "write it anew"))
    if struct.unpack_from("<i", data, 4)[0] & _OTHER_KINDS:
        raise UnreadableError(Finding("is an EXR file of tiles or several parts", "save it as single scan lines"))
    attributes, end = _read_attributes(data, 8)
    left, top, right, bottom = struct.unpack("<4i", _attribute(attributes, "dataWindow"))
    check_size(bottom - top + 1, right - left + 1)
    compression = _attribute(attributes, "compression")[0]
    if compression not in _LINES:
        what = f"is an EXR file with compression number {compression}"
        raise UnreadableError(Finding(what, "save it uncompressed or with ZIP"))
    channels = _read_channels(_attribute(attributes, "channels"))
    return _Header(right - left + 1, bottom - top + 1, top, compression, channels, end)


def _read_attributes(data: bytes, place: int) -> tuple[dict[str, bytes], int]:
    """The attributes by name, and where they end."""
    found = {}
    while data[place] != 0:
        name_end = data.index(0, place)
        kind_end = data.index(0, name_end + 1)
        (size,) = struct.unpack_from("<I", data, kind_end + 1)
        found[data[place:name_end].decode("latin-1")] = data[kind_end + 5 : kind_end + 5 + size]
        place = kind_end + 5 + size
    return found, place + 1


def _attribute(attributes: dict[str, bytes], name: str) -> bytes:
    if not attributes.get(name):
        raise ValueError(name)
    return attributes[name]


def _read_channels(data: bytes) -> list[tuple[str, str]]:
    channels, place = [], 0
    while data[place] != 0:
        end = data.index(0, place)
        kind, across, down = struct.unpack_from("<i4xii", data, end + 1)
        if not (0 <= kind < len(_FORMATS) and across == down == 1):
            raise ValueError(kind)
        channels.append((data[place:end].decode("latin-1"), _FORMATS[kind]))
        place = end + 17
    return channels


def _choose(channels: list[tuple[str, str]]) -> int:
    """The number of the channel that has the depth."""
    if len(channels) == 1:
        return 0
    names = [name.rsplit(".", 1)[-1].upper() for name, _ in channels]
    for name in _DEPTH_NAMES:
        if name in names:
            return names.index(name)
    what = f"has the channels {', '.join(name for name, _ in channels[:8])}"
    raise UnreadableError(Finding(what, "give an EXR file with one channel, or one called Z"))


def _read_rows(data: bytes, header: _Header) -> NDArray[np.float32]:
    chosen, lines = _choose(header.channels), _LINES[header.compression]
    row = np.dtype([(str(n), kind, (header.width,)) for n, (_, kind) in enumerate(header.channels)])
    if len(header.channels) > _MOST_CHANNELS or lines * row.itemsize > _LARGEST_BLOCK:
        what = f"has {len(header.channels)} channels of {header.width:,} px a row"
        raise UnreadableError(Finding(what, "save the one channel of depth, and no more than a few"))
    blocks = -(-header.height // lines)
    if len(data) < header.end + 8 * blocks:
        raise ValueError(blocks)
    values, firsts = np.empty((header.height, header.width), dtype=np.float32), set()
    for offset in struct.unpack_from(f"<{blocks}Q", data, header.end):
        y, size = struct.unpack_from("<iI", data, offset)
        first = y - header.top
        count = min(lines, header.height - first)
        content = data[offset + 8 : offset + 8 + size]
        if first < 0 or count < 1 or first % lines or first in firsts or len(content) < size:
            raise ValueError(y)
        firsts.add(first)
        if size < count * row.itemsize:
            content = _unzip(content, count * row.itemsize) if header.compression else b""
        rows = np.frombuffer(content, dtype=row, count=count)
        values[first : first + count] = rows[str(chosen)]
    return values


def _unzip(content: bytes, size: int) -> bytes:
    """Undo the compression: differences of bytes, the even ones first."""
    found = np.frombuffer(zlib.decompressobj().decompress(content, size), dtype=np.uint8)
    steps = found.copy()
    steps[1:] -= 128  # modulo 256
    summed = np.cumsum(steps, dtype=np.uint8)
    half = (len(summed) + 1) // 2
    result = np.empty_like(summed)
    result[0::2], result[1::2] = summed[:half], summed[half:]
    return result.tobytes()
