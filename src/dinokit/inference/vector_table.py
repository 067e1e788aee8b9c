"""A Parquet table of embeddings, opened for searching: checked, and read block by block."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dinokit.errors import UserError
from dinokit.inference.embed import Tokens
from dinokit.inference.vector_space import Floats, Origin, join

ABOUT = ("path", "width", "height")
"""What a collection says of each picture."""
_BLOCK = 1 << 22
"""Numbers that are unpacked at a time."""
_MAX_WIDTH = 1 << 16
_MAX_FOOTER = 256 << 20


@dataclass(frozen=True)
class VectorTable:
    """An open table, as `dinokit embed` writes it (`inference.embedding_table`). It stays what it was when opened."""

    path: Path
    file: pq.ParquetFile
    origin: Origin
    """With the tokens that were chosen."""
    columns: tuple[str, ...]
    """Those whose vectors make up one vector."""
    fingerprint: str
    """Changes with the file."""

    def __len__(self) -> int:
        return int(self.file.metadata.num_rows)

    @property
    def width(self) -> int:
        """D of the whole vector."""
        return sum(self.file.schema_arrow.field(name).type.list_size for name in self.columns)

    def blocks(self) -> Iterator[Floats]:
        """All vectors in order, [n, D] of length 1 each. `UserError` for numbers that are not finite, and damage."""
        first = 0
        for batch in self.batches(self.columns):
            columns = [_vectors(batch.column(name)) for name in self.columns]
            good = np.logical_and.reduce([np.isfinite(column).all(axis=1) for column in columns])
            if len(good) < len(batch) or not good.all():
                row = first + int(good.argmin())
                raise UserError(f"{self.path} has a vector that is not finite in row {row}", "make the table again")
            yield join(columns)
            first += len(batch)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Some columns of all rows, in blocks. Raises `UserError` for a damaged table."""
        try:
            rows = max(_BLOCK // self.width, 1)
            yield from self.file.iter_batches(batch_size=rows, columns=list(columns))
        except (pa.ArrowException, OSError) as problem:
            raise _damaged(self.path, problem) from None

    def rows(self, numbers: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        """Some columns of some rows, by their numbers, in that order; reads only where these rows lie."""
        groups = [self.file.metadata.row_group(i).num_rows for i in range(self.file.num_row_groups)]
        starts = np.concatenate([[0], np.cumsum(groups)])
        found: dict[int, dict[str, Any]] = {}
        try:
            for group in sorted({int(np.searchsorted(starts, n, side="right")) - 1 for n in numbers}):
                inside = [n for n in dict.fromkeys(numbers) if starts[group] <= n < starts[group + 1]]
                part = self.file.read_row_group(group, columns=list(columns)).take([n - starts[group] for n in inside])
                found.update(zip(inside, part.to_pylist(), strict=True))
        except (pa.ArrowException, OSError) as problem:
            raise _damaged(self.path, problem) from None
        return [found[n] for n in numbers]


def open_table(path: Path, tokens: Tokens | None = None) -> VectorTable:
    """Open the table of embeddings at `path`.

    tokens: what a vector is made of; None: the class token where the table has it. Raises `UserError` for what is no
    such table, an empty one, and tokens that it does not have.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder", "name a table, FILE.parquet, as dinokit embed writes it")
    try:
        handle = pa.OSFile(os.fspath(path))
        changed = os.stat(path).st_mtime_ns
        fingerprint = f"{handle.size()}-{changed}-{_footer_sha256(handle)[:16]}"
        file = pq.ParquetFile(handle, pre_buffer=False)  # else all groups that will be read wait in memory
        schema = file.schema_arrow
    except FileNotFoundError:
        raise UserError(f"{path} is not found", "make it with dinokit embed PICTURES --out FILE.parquet") from None
    except (pa.ArrowException, OSError, ValueError) as problem:
        if isinstance(problem, OSError) and problem.errno is not None:  # of the system, not of the content
            raise UserError(f"{path} cannot be read ({os.strerror(problem.errno)})", "check the file") from None
        raise UserError(f"{path} is no whole Parquet file", "make it with dinokit embed") from None
    metadata = {
        key.decode("utf-8", "replace").removeprefix("dinokit."): value.decode("utf-8", "replace")
        for key, value in (schema.metadata or {}).items()
    }
    _check_columns(path, schema, "embedding")
    if not file.metadata.num_rows:
        raise UserError(f"{path} has no rows", "embed some pictures first")
    origin = Origin.read(metadata, str(path))
    chosen, columns = _choose(path, origin, tokens)
    _check_columns(path, schema, *columns)
    found = Origin(origin.model, origin.weights_sha256, origin.network_sha256, origin.size, chosen)
    return VectorTable(path, file, found, columns, fingerprint)


def _choose(path: Path, origin: Origin, tokens: Tokens | None) -> tuple[Tokens, tuple[str, ...]]:
    """What a vector is made of, and the columns that have it."""
    if origin.tokens != "cls+mean":
        if tokens not in (None, origin.tokens):
            raise UserError(f"{path} has only {origin.tokens} vectors", "embed the pictures with --tokens cls+mean")
        return origin.tokens, ("embedding",)
    columns: dict[Tokens | None, tuple[str, ...]] = {
        "cls": ("embedding",),
        "mean": ("mean_patch",),
        "cls+mean": ("embedding", "mean_patch"),
    }
    if tokens is not None and tokens not in columns:
        raise UserError(f"tokens is {tokens!r}", f"give {', '.join(map(str, columns))}")
    return tokens or "cls", columns[tokens or "cls"]


def _check_columns(path: Path, schema: pa.Schema, *vectors: str) -> None:
    hint = "make it with dinokit embed"
    for name in ("path", "width", "height", *vectors):
        if schema.names.count(name) != 1:
            raise UserError(f"{path} is no table of embeddings: it has no column {name}", hint)
    for name in vectors:
        kind = schema.field(name).type
        fixed = pa.types.is_fixed_size_list(kind) and 0 < kind.list_size <= _MAX_WIDTH
        if not (fixed and pa.types.is_floating(kind.value_type)):
            raise UserError(f"{path} is no table of embeddings: its column {name} holds {kind}", hint)
    if not pa.types.is_string(schema.field("path").type):
        raise UserError(f"{path} is no table of embeddings: its column path is no text", hint)


def _vectors(column: pa.FixedSizeListArray) -> Floats:
    """A column as an array [n, D] of its own; rows that are missing are not a number."""
    values: NDArray[Any] = column.flatten().to_numpy(zero_copy_only=False)
    if column.null_count:
        return np.full((len(column), 1), np.nan, np.float32)
    return np.array(values, np.float32).reshape(len(column), -1)


def _footer_sha256(file: Any) -> str:
    """The hash of what describes the content: where each column of each group lies, and its statistics."""
    size = file.size()
    if size < 12:
        raise ValueError("too short")
    file.seek(size - 8)
    length = int.from_bytes(file.read(4), "little")
    if length > min(size - 8, _MAX_FOOTER):
        raise ValueError("no footer")
    file.seek(size - 8 - length)
    digest = hashlib.sha256(file.read(length)).hexdigest()
    file.seek(0)
    return digest


def _damaged(path: Path, problem: BaseException) -> UserError:
    first = str(problem).split("\n")[0][:100]
    return UserError(f"{path} is damaged ({first})", "make the table again with dinokit embed")
