"""The vectors of a table, unpacked once into a file that is mapped into memory, whitened if wanted.

`TABLE.parquet.TOKENS.vectors` lies beside the table: a safetensors file with `vectors` [N, D] float32, each of length
1, with `mean` and `map` where they are whitened, and with the table's fingerprint: when the table changes, the file is
made anew. It appears by rename, whole or not at all. One process writes while others wait for it; the temporary file
is locked, so that one that a killed process left behind is simply taken over. Where the folder cannot be written, the
vectors are unpacked into memory.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from dinokit.data.track import Track
from dinokit.errors import UserError
from dinokit.inference.vector_space import Floats, Moments, Whitening
from dinokit.inference.vector_table import VectorTable

_ALIGN = 64
_MAX_HEADER = 1 << 20
_ROWS = 1 << 14
"""Rows that are whitened together."""


@dataclass(frozen=True)
class Vectors:
    """What is searched."""

    rows: Tensor
    """float32 [N, D], each of length 1, on the CPU; perhaps a file in memory."""
    whitening: Whitening | None
    """What they went through, and queries must."""


def unpack(table: VectorTable, whiten: bool, track: Track) -> Vectors:
    """The vectors of a table, from the file beside it, which is made where it is missing or old.

    Where that is not possible, a warning says so. Raises `UserError` for vectors that are not finite.
    """
    path = store_of(table, whiten)
    found = _open(path, table.fingerprint)
    if found is not None:
        return found
    try:
        with _locked(path.with_name(path.name + ".tmp")) as file:
            found = _open(path, table.fingerprint)  # another process may have made it meanwhile
            if found is None:
                _write(file, table, whiten, track)
                os.replace(file.name, path)
                found = _open(path, table.fingerprint)
            else:
                os.unlink(file.name)
    except OSError as problem:
        what = f"cannot write {path} ({problem.strerror}): the vectors are unpacked into memory, every time"
        warnings.warn(what, stacklevel=3)
    return found or _in_memory(table, whiten, track)


def store_of(table: VectorTable, whiten: bool) -> Path:
    """The file beside a table that holds its vectors."""
    kind = f"{table.origin.tokens}{'-whitened' if whiten else ''}"
    return table.path.with_name(f"{table.path.name}.{kind}.vectors")


def _open(path: Path, fingerprint: str) -> Vectors | None:
    """The vectors in the file, if it is whole and of the table with this fingerprint."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length <= _MAX_HEADER else {}
            if header["__metadata__"]["table"] != fingerprint:
                return None
            parts = {name: _map(path, 8 + length, at) for name, at in header.items() if name != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    whitening = Whitening(np.array(parts["mean"]), np.array(parts["map"])) if "mean" in parts else None
    return Vectors(torch.from_numpy(parts["vectors"]), whitening)


def _map(path: Path, start: int, entry: dict[str, Any]) -> Floats:
    """One tensor as an array on the file; `ValueError` where the file is shorter. Changes would stay in memory."""
    return np.memmap(path, np.float32, "c", start + int(entry["data_offsets"][0]), tuple(entry["shape"]))


@contextmanager
def _locked(path: Path) -> Iterator[IO[bytes]]:
    """The temporary file at `path`, empty and this process's alone; waits for another that has it."""
    while True:
        file = open(path, "a+b")  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                    break
        except BaseException:
            file.close()
            raise
        file.close()  # the other one has finished and renamed it
    with file:
        file.truncate(0)
        yield file


def _write(file: IO[bytes], table: VectorTable, whiten: bool, track: Track) -> None:
    width = table.width
    shapes = {"mean": (width,), "map": (width, width)} if whiten else {}
    header, starts, end = _header({**shapes, "vectors": (len(table), width)}, table.fingerprint)
    file.write(header)
    file.flush()
    if hasattr(os, "posix_fallocate"):  # a full disk is said here, not while the map is written; macOS lacks it
        os.posix_fallocate(file.fileno(), 0, len(header) + end)
    else:
        file.truncate(len(header) + end)
    target = {
        name: np.memmap(file.name, np.float32, "r+", len(header) + start, shape)
        for (name, start), shape in zip(starts.items(), [*shapes.values(), (len(table), width)], strict=True)
    }
    whitening = _fill(target["vectors"], table, whiten, track)
    if whitening is not None:
        target["mean"][:], target["map"][:] = whitening.mean, whitening.map
    for part in target.values():
        part.flush()
    os.fsync(file.fileno())


def _fill(target: Floats, table: VectorTable, whiten: bool, track: Track) -> Whitening | None:
    """Put the vectors of a table into `target`, and whiten them there."""
    first, moments = 0, Moments(table.width)
    blocks = -(-len(table) // max((1 << 22) // table.width, 1))
    for block in track(table.blocks(), blocks, "unpacking vectors"):
        target[first : first + len(block)] = block
        first += len(block)
        if whiten:
            moments.add(block)
    if first < len(target):
        raise UserError(f"{table.path} has {first} rows and says {len(target)}", "make the table again")
    pa.default_memory_pool().release_unused()
    if not whiten:
        return None
    whitening = Whitening.fit(moments)
    for first in range(0, len(target), _ROWS):
        target[first : first + _ROWS] = whitening(target[first : first + _ROWS])
    return whitening


def _in_memory(table: VectorTable, whiten: bool, track: Track) -> Vectors:
    rows = np.empty((len(table), table.width), np.float32)
    whitening = _fill(rows, table, whiten, track)
    return Vectors(torch.from_numpy(rows), whitening)


def _header(shapes: dict[str, tuple[int, ...]], fingerprint: str) -> tuple[bytes, dict[str, int], int]:
    """The header of a safetensors file, where each tensor begins after it, and where the last ends."""
    entries: dict[str, Any] = {"__metadata__": {"table": fingerprint}}
    starts, end = {}, 0
    for name, shape in shapes.items():
        starts[name], start = end, end
        end += 4 * int(np.prod(shape))
        entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(entries).encode()
    text += b" " * (-(8 + len(text)) % _ALIGN)
    return len(text).to_bytes(8, "little") + text, starts, end
