"""A collection of pictures that grows: a folder with a LanceDB table, searched by pictures and by filters.

The table has path, width, height and whatever else the table of embeddings had, with one vector a picture. The
folder's `space.safetensors` says which model made the vectors and how they are whitened, as it was found when the
index was built. Above `heads.ivf.ROWS` pictures a search looks into a few cells only; with a filter, and while cells
are not those of the present version, it compares every vector.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from dinokit.checkpoints.folders import LOCK, hold
from dinokit.checkpoints.names import lossless
from dinokit.checkpoints.save import write_atomically
from dinokit.data.listing import SkippedFiles
from dinokit.data.opening import DataSource, open_pictures
from dinokit.data.pictures import subset
from dinokit.data.track import Track, silent
from dinokit.errors import UserError
from dinokit.heads.ivf import Ivf, open_ivf, renew_ivf
from dinokit.heads.similar import groups
from dinokit.images.read import Source
from dinokit.inference.backbone import Backbone
from dinokit.inference.embed import take_vectors
from dinokit.inference.lance_store import VECTOR, LanceStore, quoted
from dinokit.inference.stream import Stream
from dinokit.inference.vector_space import Floats, Origin, Whitening, join
from dinokit.inference.vector_table import ABOUT
from dinokit.tasks.hits import Hits, PictureGroups
from dinokit.tasks.retrieve import Collection
from dinokit.tasks.searching import Entry, Searchable

__all__ = ["Index"]

_SPACE = "space.safetensors"
_BATCH = 16
CELL_NEIGHBOURS = 200
"""Neighbours up to which cells are looked into; for more, every vector is compared."""


class Index(Searchable):
    """An index in a folder. What one process changes, the others see at their next call."""

    def __init__(self, folder: str | Path, backbone: Backbone | None = None) -> None:
        """Open the index in `folder`.

        backbone: what it was made with, for additions and searches. Raises `UserError` where there is no whole index
        and for another backbone, naming the right one.
        """
        origin, whitening = _read_space(Path(folder))
        super().__init__(Path(folder), origin, whitening, backbone)
        self.store = LanceStore(Path(folder))
        self._cells: Ivf | None = None

    @staticmethod
    def build(folder: str | Path, collection: Collection) -> Index:
        """Make an index of the pictures of a table. It appears whole; raises `UserError` if `folder` is there."""
        folder = Path(folder)
        if os.path.lexists(folder):
            raise UserError(f"{folder} is there already", "add to it, delete it, or choose another folder")
        draft = folder.with_name(f".{folder.name}.building")
        with hold(draft, "building an index"):
            for path in [path for path in draft.iterdir() if path.name != LOCK]:  # of a build that was killed
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            _write_space(draft, collection)
            schema = _schema(collection)
            renew_ivf(LanceStore.create(draft, _rows(collection, schema), schema))
            (draft / LOCK).unlink(missing_ok=True)
            os.rename(draft, folder)
        return Index(folder, collection.backbone)

    def __len__(self) -> int:
        return len(self.store)

    def paths(self) -> Iterator[str]:
        """See `Searchable.paths`."""
        yield from self.store.columns(["path"]).column("path").to_pylist()

    def add(self, pictures: DataSource, track: Track = silent) -> dict[str, Any]:
        """Add pictures: folders, patterns, files or shards; those whose path is there already are renewed.

        They are written piece by piece: what was added before an interruption stays. Returns `added`, `skipped` (a
        number) and `summary` (a line about them). Raises `UserError` where there is no picture to read.
        """
        skipped = SkippedFiles()
        found = open_pictures(pictures, skipped)
        places = {lossless(found.place(i)): i for i in range(len(found))}  # sources may overlap
        found = subset(found, list(places.values()))
        keep = partial(take_vectors, tokens=self.origin.tokens)
        stream = Stream(found, self.model(), self.origin.size, _BATCH, keep)
        bad: list[tuple[str, str]] = []
        first = 0
        try:
            for chunk in track(stream.chunks(range(len(found))), len(found), "adding pictures"):
                seen = [(lossless(found.place(first + n)), one) for n, one in enumerate(chunk)]
                bad += [(path, one.unreadable) for path, one in seen if one.found is None]
                self._put([(path, one.shape, one.found) for path, one in seen if one.found is not None])
                first += len(chunk)
        finally:
            self._settle()
        if len(bad) == len(found):
            stream.refuse(bad)
        for path, reason in bad:
            skipped.add(path, reason)
        return {"added": len(found) - len(bad), "skipped": len(skipped), "summary": skipped.summary()}

    def remove(self, paths: Sequence[str] = (), where: str | None = None) -> int:
        """Remove the pictures with these paths, or those that `where` names; returns how many.

        Raises `UserError` if neither or both are given, and for a filter that cannot be understood.
        """
        if bool(paths) == (where is not None):
            raise UserError("what to remove is not clear", 'give paths, or --where such as "width < 64"')
        removed = self.store.remove(f"path IN ({quoted(paths)})" if where is None else where)
        if paths and not removed:
            raise UserError(f"{self.place} has no picture {paths[0]}", "give paths as dinokit index search prints them")
        if removed:
            self._settle()
        return removed

    def search(self, picture: Source, k: int | None = None, rerank: int = 0, where: str | None = None) -> Hits:
        """The k pictures most like this one, of those that `where` names; None: 12, or all where there are fewer.

        where: a condition on the columns as in SQL, such as "width > 512 AND path LIKE 'photos/%'". rerank: how many
        of the first are compared patch by patch, and put in that order. Raises `UserError` for a picture that cannot
        be read, for k above the number of pictures and for a filter that cannot be understood.
        """
        return self.hits(picture, k, rerank, lambda vector, wanted: self.nearest(vector[0], wanted, where))

    def nearest(self, vector: Floats, k: int, where: str | None = None) -> list[Entry]:
        """The k pictures nearest to a vector [D] of the model: path, width, height, similarity."""
        query = self.queries(vector[None], len(vector))[0]
        if where is None:
            self._cells = open_ivf(self.store, self._cells)
        if where is not None or self._cells is None:
            return self.store.nearest(query, k, where, ABOUT)
        similarity, ids = self._cells.nearest(query, k)
        if k > CELL_NEIGHBOURS or (len(ids) < k and len(ids) < len(self)):  # the cells are for few neighbours
            return self.store.nearest(query, k, where, ABOUT)
        found = self._cells.rows(ids)
        return [entry | {"similarity": float(cosine)} for entry, cosine in zip(found, similarity, strict=True)]

    def duplicates(self, threshold: float | None = None) -> PictureGroups:
        """Groups of pictures whose similarity is at least `threshold` (None: 0.9; 0.99 for plain vectors).

        Compares each picture with each other.
        """
        threshold = self.threshold(threshold)
        blocks = list(self.store.vectors())
        if not blocks:
            return PictureGroups((), threshold, self.place.parent)
        ids = np.concatenate([block[0] for block in blocks])
        found = groups(torch.from_numpy(np.concatenate([block[1] for block in blocks])), threshold)
        return self.grouped([self.store.take(ids[rows].tolist(), ABOUT) for rows in found], threshold)

    def _put(self, rows: Sequence[tuple[str, tuple[int, int], Any]]) -> None:
        """Write pictures as path, (height, width) and vectors."""
        if not rows:
            return
        parts = [np.stack([vectors[i] for _, _, vectors in rows]) for i in range(len(rows[0][2]))]
        vectors = self.queries(join(parts), sum(part.shape[1] for part in parts))
        known = {
            "path": [path for path, _, _ in rows],
            "width": [shape[1] for _, shape, _ in rows],
            "height": [shape[0] for _, shape, _ in rows],
            VECTOR: pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1]),
        }
        schema = self.store.schema
        columns = [pa.array(known[f.name], f.type) if f.name in known else pa.nulls(len(rows), f.type) for f in schema]
        self.store.put(pa.Table.from_arrays(columns, schema=schema))

    def _settle(self) -> None:
        """What follows on changes: few pieces, and cells of the present version."""
        self.store.tidy()
        renew_ivf(self.store)


def open_searchable(place: Path, to_change: bool = False) -> Collection | Index:
    """A table or an index, by what lies there; `UserError` for a table that is to be changed."""
    if place.suffix != ".parquet":
        return Index(place)
    if to_change:
        raise UserError(
            f"{place} is a table and stays as it is",
            "build an index of it, which can forget pictures: dinokit index build",
        )
    return Collection(place)


def _schema(collection: Collection) -> pa.Schema:
    """Path, width, height and the other plain columns of the table, and the vector."""
    given = collection.table.file.schema_arrow
    plain = [f for f in given if not pa.types.is_nested(f.type) and f.name not in (VECTOR, "_distance", "_rowid")]
    vector = pa.field(VECTOR, pa.list_(pa.float32(), collection.table.width))
    return pa.schema([*(pa.field(f.name, f.type) for f in plain), vector])


def _rows(collection: Collection, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The rows of the table with their vectors as they are compared; of several with one path the first."""
    first, paths = 0, set[str]()
    for batch in collection.table.batches([name for name in schema.names if name != VECTOR]):
        names = batch.column("path").to_pylist()
        places = {name: place for place, name in reversed(list(enumerate(names)))}
        new = [name not in paths and places[name] == place for place, name in enumerate(names)]
        paths.update(names)
        vectors = collection.vectors.rows[first : first + len(batch)].numpy()[new]
        kept = batch.filter(pa.array(new))
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
        columns = [column if name == VECTOR else kept.column(name) for name in schema.names]
        yield pa.RecordBatch.from_arrays(columns, schema=schema)
        first += len(batch)


def _write_space(folder: Path, collection: Collection) -> None:
    whitening = collection.whitening
    tensors = {} if whitening is None else {"mean": whitening.mean, "map": whitening.map}
    about = {name: str(value) for name, value in asdict(collection.origin).items()}
    write_atomically(folder / _SPACE, save(tensors, {"dinokit": json.dumps(about)}))


def _read_space(folder: Path) -> tuple[Origin, Whitening | None]:
    path = folder / _SPACE
    if not path.is_file():
        raise UserError(f"{folder} is no index", "build it with dinokit index build INDEX --from TABLE.parquet")
    try:
        with safe_open(path, "numpy") as file:
            about = json.loads((file.metadata() or {})["dinokit"])
            parts = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        origin = Origin.read(about, str(path), "dinokit index build")
        whitening = Whitening(parts["mean"], parts["map"]) if parts else None
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged", "build the index anew") from None
    return origin, whitening
