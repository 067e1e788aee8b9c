"""An index of a tar file: where each wanted member lies, or its bytes if the tar is gzipped.

Built on the standard library's header parser, fed through a forward-only stream that bounds what one member's
headers may read, so that no archive can allocate or read without limit: a plain tar costs memory in proportion to
its length, a gzipped one no more than `memory`, and it is unzipped to at most `MAX_RATIO` times its length. Links,
devices, folders and sparse members are left out; those with a wanted name, and a cut or foreign archive, are
problems. A cut archive gives its complete members.
"""

import gzip
import io
import os
import sys
import tarfile
import zlib
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

from dinokit.errors import UserError
from dinokit.images.kinds import Finding
from dinokit.images.read import MAX_BYTES, ReadError

MAX_RATIO = 100
"""What unzips to more than this many times its length (and `_SLACK`) is refused: pictures hardly shrink."""

_SLACK = 64 << 20
_CHUNK = 1 << 20
_MAX_HEADER = 1 << 20  # long names and pax records of one member
_OBJECTS = 1024  # bytes: what stands for a member in lists and tables, besides its name
_BLOCK = 512
# the parser calls itself for every long name: hundreds in a row end in a RecursionError
_BROKEN = (tarfile.TarError, EOFError, zlib.error, OSError, ValueError, OverflowError, RecursionError)


@dataclass(frozen=True)
class Member:
    """One regular member: its name, and where its bytes are."""

    name: str
    offset: int
    """Of the first byte in the (uncompressed) tar file."""
    size: int
    """In bytes."""
    data: bytes | None
    """The bytes themselves, for gzipped archives."""

    def read(self, path: Path) -> bytes:
        """Return the bytes, from memory or by position from the tar at `path`; raises `ReadError`."""
        if self.data is not None:
            return self.data
        try:
            with open(path, "rb", buffering=0) as file:  # a handle a read: safe from threads and after a fork
                file.seek(self.offset)
                data = file.read(self.size)
        except OSError as error:
            reason = f"cannot be read ({error.strerror})"
            raise ReadError(f"{path}/{self.name}", Finding(reason, "check the file")) from None
        if len(data) < self.size:
            finding = Finding("is cut off: the shard has changed", "open it again")
            raise ReadError(f"{path}/{self.name}", finding)
        return data


@dataclass
class TarIndex:
    """The wanted members of a tar, and (name, reason) of what could not be taken ("" = the tar itself)."""

    members: list[Member] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    bytes_in_memory: int = 0
    """Of a gzipped tar: the bytes of its members, and what each wanted name costs."""


def index_tar(path: Path, wanted: Callable[[str], bool], memory: int) -> TarIndex:
    """Index the members of a tar or a gzipped tar whose name is `wanted`.

    `memory`: how many bytes may be kept, for gzipped archives. What is empty or no tar has no members and one
    problem. Raises `UserError` naming the file when it is missing, cannot be read, needs more memory or unzips to
    more than `MAX_RATIO` times its length.
    """
    try:
        with open(path, "rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if zipped:
                limit = _SLACK + MAX_RATIO * os.fstat(file.fileno()).st_size
                with gzip.GzipFile(fileobj=file) as unzipped:
                    return _index(path, _Unzipped(unzipped, path, limit), wanted, memory)
            return _index(path, _Plain(file), wanted, None)
    except FileNotFoundError:
        raise UserError(f"{path} is not found", "check the path") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})", "check the file") from None


class _Stream(io.RawIOBase):
    """What the header parser reads from: bounded, and with a memory of the last block."""

    last = b""
    asked = 0
    """Bytes that the headers of the present member asked for."""

    def read(self, size: int = -1) -> bytes:
        self.asked += size
        if size < 0 or self.asked > _MAX_HEADER:
            raise ValueError("a header asks for too much")
        self.last = self.read_data(size)
        return self.last

    @abstractmethod
    def read_data(self, size: int) -> bytes:
        """Read up to `size` bytes; the caller has checked the size."""

    @abstractmethod
    def has(self, end: int) -> bool:
        """Say whether the tar may go on to byte `end`."""


class _Plain(_Stream):
    """A seekable file."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.length = os.fstat(file.fileno()).st_size

    def read_data(self, size: int) -> bytes:
        return self.file.read(size)

    def has(self, end: int) -> bool:
        return end <= self.length

    def seek(self, position: int, whence: int = 0) -> int:
        return self.file.seek(min(position, self.length), whence)

    def tell(self) -> int:
        return self.file.tell()


class _Unzipped(_Stream):
    """A gzip stream that is read once, forwards, up to byte `limit`; `UserError` naming `path` beyond it."""

    def __init__(self, stream: gzip.GzipFile, path: Path, limit: int) -> None:
        self.stream, self.path, self.limit = stream, path, limit
        self.position = 0

    def read_data(self, size: int) -> bytes:
        data = self.stream.read(size)
        self.position += len(data)
        if self.position > self.limit:
            what = f"{self.path} unzips to more than {MAX_RATIO} times its length"
            raise UserError(what, "gunzip it if you trust it: plain tars are read by position")
        return data

    def has(self, end: int) -> bool:
        return True

    def seek(self, position: int, whence: int = 0) -> int:
        if whence != 0 or position < self.position:
            raise ValueError("a gzipped tar is read forwards only")
        while self.position < position and self.read_data(min(_CHUNK, position - self.position)):
            pass
        return self.position

    def tell(self) -> int:
        return self.position


def _index(path: Path, stream: _Stream, wanted: Callable[[str], bool], memory: int | None) -> TarIndex:
    """Walk through the headers; `memory` is None where members are read by position later."""
    index = TarIndex()
    archive = _open(stream)
    if archive is None:
        index.problems.append(("", "is not a tar file" if path.stat().st_size else "is empty"))
        return index
    end = 0
    try:
        while (info := archive.next()) is not None:
            _check_forward(info, end)
            end = info.offset_data
            _forget(archive, stream)
            if wanted(info.name) and not info.isdir():
                _take(index, info, stream, memory, path)
        whole = stream.last == bytes(_BLOCK)  # the end of a tar is a block of zeros
    except _BROKEN:
        whole = False
    if not whole:
        lost = f"what follows {index.members[-1].name} is missing" if index.members else "before its first picture"
        index.problems.append(("", f"is truncated or damaged ({lost})"))
    return index


def _open(stream: _Stream) -> tarfile.TarFile | None:
    """Read the first header; None when there is none."""
    try:
        return tarfile.open(fileobj=cast(BinaryIO, stream), mode="r:")
    except _BROKEN:
        return None


def _forget(archive: tarfile.TarFile, stream: _Stream) -> None:
    """Let go of what the parser keeps of each header, and give the next member its own bound."""
    archive.members.clear()  # type: ignore[attr-defined]
    archive.pax_headers = {}
    stream.asked = 0


def _check_forward(info: tarfile.TarInfo, end: int) -> None:
    """Refuse a forged header that would lead back: the walk would never end."""
    if info.size < 0 or info.offset_data <= end:
        raise ValueError("a header leads back")


def _take(index: TarIndex, info: tarfile.TarInfo, stream: _Stream, memory: int | None, path: Path) -> None:
    """Add one member, with its bytes for a gzipped tar, or a problem to the index; `EOFError` if it is cut off."""
    reason = _reason_against(info)
    if memory is not None:
        # a name is kept up to three times: as it is, as the key and in a list of problems
        index.bytes_in_memory += _OBJECTS + 3 * sys.getsizeof(info.name) + (0 if reason else info.size)
        if index.bytes_in_memory > memory:
            raise UserError(f"{path} is too large to be kept in memory", "gunzip it: plain tars are read by position")
    if reason:
        index.problems.append((info.name, reason))
        return
    if not stream.has(info.offset_data + info.size):
        raise EOFError
    data = None if memory is None else _read_member(info, stream)
    index.members.append(Member(info.name, info.offset_data, info.size, data))


def _reason_against(info: tarfile.TarInfo) -> str:
    """Why a wanted member cannot be taken; empty if it can."""
    if not info.isreg() or info.issparse():
        return "is a link" if info.issym() or info.islnk() else "is no regular file"
    return f"is larger than {MAX_BYTES >> 20} MiB" if info.size > MAX_BYTES else ""


def _read_member(info: tarfile.TarInfo, stream: _Stream) -> bytes:
    stream.seek(info.offset_data)
    data = stream.read_data(info.size)
    if len(data) < info.size:
        raise EOFError
    return data
