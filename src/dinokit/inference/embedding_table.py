"""A Parquet table of embeddings that grows in parts, so that an interrupted job loses almost nothing.

Finished pictures lie in `FILE.parquet.parts/` as complete Parquet files, each named by the pictures it covers and
carrying the list of those that could not be read. A part appears by rename: it is whole or not there. At the end
the parts are streamed into one file. Columns: `path` string (what opens the picture from where the command ran, or
SHARD.tar/MEMBER; names that are no UTF-8 as `checkpoints.names.lossless` writes them), `width`, `height` int32 (pixels
of the source picture), then the vectors, fixed-size lists of D floats. Those in float32 are split into byte streams,
the only encoding that makes floats smaller; DuckDB cannot read float16 in that form.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dinokit.checkpoints.folders import check_folder
from dinokit.checkpoints.names import lossless
from dinokit.checkpoints.save import write_atomically
from dinokit.errors import UserError
from dinokit.inference.jobs import claim

PART_PICTURES = 512
"""Pictures a part covers at most."""
PART_SECONDS = 30.0
"""After which a part is written even if it covers fewer."""
ROW_GROUP = 8192
ERRORS = ".errors.jsonl"
"""Ends the name of the list of what was skipped."""
_UNREADABLE = b"dinokit.unreadable"
_PART = re.compile(r"part-(\d{9,})-(\d{9,})\.parquet")

Vectors = tuple[NDArray[np.float32], ...]
"""One vector [D] for each column of vectors."""


@dataclass(frozen=True)
class Row:
    """One picture: its path, and its size in pixels and vectors, or why it could not be read."""

    path: str
    width: int = 0
    height: int = 0
    vectors: Vectors | None = None
    unreadable: str = ""


@dataclass(frozen=True)
class VectorColumns:
    """The columns of vectors that a table has."""

    names: tuple[str, ...]
    width: int
    """D."""
    dtype: str
    """float32 or float16."""

    def schema(self, job: Mapping[str, Any]) -> pa.Schema:
        """All columns, and the job (which model, weights and size) as metadata `dinokit.NAME`."""
        number = {"float16": pa.float16(), "float32": pa.float32()}[self.dtype]
        fields = [pa.field("path", pa.string()), pa.field("width", pa.int32()), pa.field("height", pa.int32())]
        fields += [pa.field(name, pa.list_(number, self.width)) for name in self.names]
        return pa.schema(fields, metadata={f"dinokit.{name}": str(value) for name, value in job.items()})

    def encoding(self) -> dict[str, Any]:
        """How Parquet stores them."""
        encoding = "BYTE_STREAM_SPLIT" if self.dtype == "float32" else "PLAIN"
        columns = {f"{name}.list.element": encoding for name in self.names}
        return {"compression": "zstd", "use_dictionary": ["path"], "column_encoding": columns}

    def array(self, rows: Sequence[Row], column: int) -> pa.Array:
        """One column of the rows, all of them readable. `UserError` for a number that its dtype does not hold."""
        vectors = [row.vectors[column] for row in rows if row.vectors is not None]
        with np.errstate(over="ignore"):
            stacked = np.array(vectors, np.float32).reshape(-1, self.width).astype(self.dtype)
        fits = np.isfinite(stacked).all(axis=1)
        if not fits.all():
            what = f"the features of {rows[int(fits.argmin())].path} are no finite {self.dtype} numbers"
            raise UserError(what, "give --dtype float32, or --precision fp32")
        return pa.FixedSizeListArray.from_arrays(pa.array(stacked.reshape(-1)), self.width)


@dataclass(frozen=True)
class Part:
    """A finished file that covers the pictures `first` <= i < `last`."""

    path: Path
    first: int
    last: int


def check_output(out: Path) -> None:
    """Raise `UserError` if the table cannot be written to `out`; writes nothing."""
    if out.suffix != ".parquet":
        raise UserError(f"--out {out} is not a Parquet file", "let its name end in .parquet")
    if os.path.isdir(out):
        raise UserError(f"--out {out} is a folder", "name a file in it")
    above = check_folder(out.parent)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.lstat(above / f"{out.name}{ERRORS}")  # the longest name that is written
    except OSError as problem:
        raise UserError(f"cannot write --out {out} ({problem.strerror})", "choose a shorter name") from None


def parts_of(out: Path) -> Path:
    """The folder of the parts of the table `out`."""
    return out.with_name(out.name + ".parts")


class PartFolder:
    """The parts of one job beside its output; `job` says what makes it this job and no other."""

    def __init__(self, out: Path, job: Mapping[str, Any], columns: VectorColumns) -> None:
        """Open or make the folder. Raises `UserError` if it belongs to another job."""
        self.out, self.columns = out, columns
        self.folder = parts_of(out)
        self._schema = columns.schema(job)
        claim(self.folder, job)
        self.parts = list(_consecutive(self.folder))
        self._kept: tuple[int, list[Row]] = (self.done, [])
        """Rows that no part holds yet, perhaps after some that one holds, and the picture of the first."""
        self._written = time.monotonic()

    @property
    def done(self) -> int:
        """Number of pictures that finished parts cover, from the first on."""
        return self.parts[-1].last if self.parts else 0

    def add(self, rows: Sequence[Row]) -> None:
        """Take the pictures that follow; they are written as soon as they fill a part or `PART_SECONDS` are over."""
        self._kept[1].extend(rows)
        self._write(PART_PICTURES if time.monotonic() - self._written < PART_SECONDS else 1)

    def flush(self) -> None:
        """Write all that was added. Safe to repeat, wherever Ctrl-C struck `add` or `flush`."""
        self._write(1)

    def _write(self, least: int) -> None:
        """Write parts while there are `least` pictures for one."""
        while True:
            first, rows = self._kept
            rows = rows[self.done - first :]
            self._kept = (self.done, rows)  # in one step: nothing is lost or doubled between two
            if len(rows) < least:
                return
            self._write_part(rows[:PART_PICTURES])

    def _write_part(self, rows: Sequence[Row]) -> None:
        first, last = self.done, self.done + len(rows)
        good = [row for row in rows if row.vectors is not None]
        bad = [[row.path, row.unreadable] for row in rows if row.vectors is None]
        metadata = {**(self._schema.metadata or {}), _UNREADABLE: json.dumps(bad).encode()}
        sink = pa.BufferOutputStream()
        pq.write_table(self._table(good).replace_schema_metadata(metadata), sink, **self.columns.encoding())
        path = self.folder / f"part-{first:09d}-{last:09d}.parquet"
        write_atomically(path, sink.getvalue().to_pybytes())
        self.parts.append(Part(path, first, last))
        self._written = time.monotonic()

    def unreadable(self) -> Iterator[tuple[str, str]]:
        """(path, reason) of each picture that could not be read, in order."""
        for part in self.parts:
            metadata = pq.read_schema(part.path).metadata or {}
            yield from (tuple(entry) for entry in json.loads(metadata[_UNREADABLE]))

    def finish(self) -> int:
        """Stream the parts into the output, in row groups, put it in place and remove them. Returns the rows.

        A damaged part is removed, and a `UserError` says so.
        """
        temporary = self.folder / "whole.tmp"
        try:
            with pq.ParquetWriter(temporary, self._schema, **self.columns.encoding()) as writer:
                rows = sum(_write_group(writer, group) for group in self._groups())
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, self.out)
        except OSError as problem:
            what = f"cannot write {self.out} ({problem.strerror or problem})"
            raise UserError(what, "make room or choose another place; the parts are kept") from None
        self.discard()
        return rows

    def discard(self) -> None:
        """Remove the folder with all it holds."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _table(self, rows: Sequence[Row]) -> pa.Table:
        arrays = [
            pa.array([lossless(row.path) for row in rows], pa.string()),
            pa.array([row.width for row in rows], pa.int32()),
            pa.array([row.height for row in rows], pa.int32()),
            *(self.columns.array(rows, column) for column in range(len(self.columns.names))),
        ]
        return pa.Table.from_arrays(arrays, schema=self._schema)

    def _groups(self) -> Iterator[pa.Table]:
        """The rows of all parts in tables of `ROW_GROUP` rows; only one and a part is in memory."""
        waiting = self._schema.empty_table()
        for part in self.parts:
            waiting = pa.concat_tables([waiting, self._read(part)])
            while len(waiting) >= ROW_GROUP:
                yield waiting.slice(0, ROW_GROUP)
                waiting = waiting.slice(ROW_GROUP)
        if len(waiting):
            yield waiting

    def _read(self, part: Part) -> pa.Table:
        try:
            return pq.read_table(part.path).replace_schema_metadata(self._schema.metadata)
        except (pa.ArrowInvalid, OSError) as problem:
            if isinstance(problem, OSError) and problem.errno is not None:  # of the system, not of the content
                raise UserError(f"cannot read {part.path} ({problem.strerror})", "check that folder") from None
            part.path.unlink()
        raise UserError(f"{part.path} was damaged and is removed", "run again: from there on it is computed anew")


def _write_group(writer: pq.ParquetWriter, group: pa.Table) -> int:
    writer.write_table(group, row_group_size=ROW_GROUP)
    return len(group)


def _consecutive(folder: Path) -> Iterator[Part]:
    """The finished parts from picture 0 on without a gap; a damaged one ends the chain and is made again."""
    named = [(_PART.fullmatch(entry.name), entry) for entry in sorted(folder.iterdir())]
    done = 0
    for match, path in named:
        if match is None or int(match[1]) != done or int(match[2]) <= done:
            continue
        try:
            if _UNREADABLE not in (pq.read_schema(path).metadata or {}):
                return
        except (pa.ArrowException, OSError):
            return
        done = int(match[2])
        yield Part(path, int(match[1]), done)
