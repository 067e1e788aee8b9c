"""Vectors with paths and other columns on disk, in a LanceDB table: crash-safe, for several writers and readers.

A change is a new version that appears whole; readers always see the newest. LanceDB was tried with killed and
concurrent writers; its exact search is slower than one product, which is why large indexes have `inference.ivf`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dinokit.errors import UserError
from dinokit.inference.vector_space import Floats

VECTOR = "vector"
_TABLE = "pictures"
_ROWS = 8192
_KEPT = timedelta(hours=1)
"""How long old versions stay for readers that are at work."""
_FRAGMENTS = 64
"""Pieces of a table from which on it is put in order."""


class LanceStore:
    """A table with the columns `vector` (float32 [D]), `path` and others."""

    def __init__(self, folder: Path) -> None:
        """Open the table in `folder`. Raises `UserError` where there is none, and for what is damaged."""
        self.folder = folder
        if not (folder / f"{_TABLE}.lance").is_dir():
            raise UserError(f"{folder} is no whole index", "build it with dinokit index build")
        with self._asked():
            self._table = _connect(folder).open_table(_TABLE)

    @staticmethod
    def create(folder: Path, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> LanceStore:
        """Make the table in `folder` of these rows."""
        try:
            _connect(folder).create_table(_TABLE, pa.RecordBatchReader.from_batches(schema, batches))
        except (RuntimeError, OSError) as problem:
            raise UserError(f"cannot write {folder} ({_first_line(problem)})", "make room, or choose another") from None
        return LanceStore(folder)

    def __len__(self) -> int:
        with self._asked():
            return int(self._table.count_rows())

    @property
    def version(self) -> int:
        """Counts up with every change."""
        with self._asked():
            return int(self._table.version)

    @property
    def stamp(self) -> int:
        """Other after every change, and cheaper to ask for than `version`: when its list of versions was written."""
        return os.stat(self.folder / f"{_TABLE}.lance" / "_versions").st_mtime_ns

    @property
    def schema(self) -> pa.Schema:
        """The columns."""
        with self._asked():
            return self._table.schema

    def put(self, rows: pa.Table) -> None:
        """Add rows, in one step; those whose path is there already take the place of the old ones."""
        with self._asked():
            self._table.merge_insert("path").when_matched_update_all().when_not_matched_insert_all().execute(rows)

    def remove(self, where: str) -> int:
        """Remove the rows that `where` names; returns how many."""
        with self._asked(where):
            return int(self._table.delete(where).num_deleted_rows)

    def nearest(self, vector: Floats, k: int, where: str | None, columns: Sequence[str]) -> list[dict[str, Any]]:
        """The k rows, of those that `where` names, nearest to `vector` [D]: columns, and `similarity`. Exact."""
        with self._asked(where):
            query = self._table.search(vector, vector_column_name=VECTOR).distance_type("dot").bypass_vector_index()
            query = query.where(where, prefilter=True) if where is not None else query
            found = query.select([*columns, "_distance"]).limit(k).to_list()
        return [{**{name: row[name] for name in columns}, "similarity": 1 - row["_distance"]} for row in found]

    def take(self, ids: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        """Columns of the rows with these ids, each given once, in order. `UserError` where one is gone."""
        with self._asked():
            rows = self._table.take_row_ids([int(i) for i in ids]).select([*columns, "_rowid"]).to_list()
            found: dict[int, dict[str, Any]] = {row.pop("_rowid"): row for row in rows}  # LanceDB sorts them
        if len(found) != len(ids):
            raise UserError(f"{self.folder} has changed meanwhile", "search again")
        return [found[int(i)] for i in ids]

    def vectors(self) -> Iterator[tuple[NDArray[np.int64], Floats]]:
        """Ids [n] and vectors [n, D] of all rows, block by block."""
        with self._asked():
            for batch in self._scan([VECTOR]):
                width = batch.schema.field(VECTOR).type.list_size
                vectors = batch.column(VECTOR).flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
                yield _ids(batch), np.array(vectors, np.float32)

    def ids(self) -> NDArray[np.int64]:
        """Ids [N] of all rows, in the order of `vectors`."""
        with self._asked():
            return np.concatenate([np.empty(0, np.int64), *(_ids(batch) for batch in self._scan(["path"]))])

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Some columns of all rows, with their ids as `_rowid`."""
        with self._asked():
            return pa.Table.from_batches(list(self._scan(list(names)))).select([*names, "_rowid"])

    def tidy(self) -> None:
        """Join the many small pieces that single additions leave."""
        with self._asked():
            if self._table.stats()["fragment_stats"]["num_fragments"] > _FRAGMENTS:
                self._table.optimize(cleanup_older_than=_KEPT)

    def _scan(self, columns: list[str]) -> Iterable[pa.RecordBatch]:
        scan: Iterable[pa.RecordBatch] = self._table.search().with_row_id(True).select(columns).to_batches(_ROWS)
        return scan

    @contextmanager
    def _asked(self, where: str | None = None) -> Iterator[None]:
        """What LanceDB says, said in one line."""
        try:
            yield
        except (ValueError, RuntimeError, OSError) as problem:
            what = _first_line(problem).removeprefix("Invalid input, ")
            if where is not None and isinstance(problem, ValueError):
                hint = "write it as in SQL, such as \"width > 512 AND path LIKE 'photos/%'\""
                raise UserError(f"--where {where!r} cannot be understood ({what})", hint) from None
            raise UserError(
                f"{self.folder} cannot be read or written ({what})", "try again, or build it anew"
            ) from None


def quoted(values: Iterable[str]) -> str:
    """Texts as a list for `where`."""
    return ", ".join("'" + value.replace("'", "''") + "'" for value in values)


def _connect(folder: Path) -> Any:
    try:
        import lancedb
    except ImportError:
        raise UserError("an index needs lancedb", "pip install dinokit[index]") from None
    return lancedb.connect(folder, read_consistency_interval=timedelta(0))


def _ids(batch: pa.RecordBatch) -> NDArray[np.int64]:
    return np.asarray(batch.column("_rowid").to_numpy(), np.int64)


def _first_line(problem: BaseException) -> str:
    return str(problem).strip().split("\n")[0].split(", /root/")[0][:200]
