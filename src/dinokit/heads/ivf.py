"""The cells of a large index: a search looks only into those nearest to the query (FAISS IVF, Jégou et al. 2011).

A file beside the LanceDB table, `ivf-VERSION.faiss`, mapped into memory. It answers only for the very version of the
table that it was made of; what was added and removed since is carried over, and after large changes the cells are
made anew. How many cells a search looks into is measured: the fewest that find 99 % of the ten true neighbours.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import torch
from numpy.typing import NDArray

from dinokit.errors import UserError
from dinokit.heads.similar import nearest
from dinokit.inference.lance_store import VECTOR, LanceStore
from dinokit.inference.vector_space import Floats
from dinokit.inference.vector_table import ABOUT

ROWS = 100_000
"""Pictures from which on an index has cells; below, every vector is compared."""
RECALL = 0.99
_NEIGHBOURS = 10
_QUERIES = 256
"""Vectors of the index on which the recall is measured."""
_TRAINING = 40
"""Vectors for each cell from which the cells are made."""
_ROUNDS = 10
_RENEWED = 0.2
"""Share of changed vectors from which on the cells are made anew."""
_FILE = re.compile(r"ivf-(\d+)\.faiss")
_TAKEN = 4096


def open_ivf(store: LanceStore, known: Ivf | None = None) -> Ivf | None:
    """The cells of the present version of `store`, if there are some: those that are `known`, where they still are."""
    stamp = store.stamp
    if known is not None and known.stamp == stamp:
        return known
    version = store.version
    path = store.folder / f"ivf-{version}.faiss"
    with contextlib.suppress(
        RuntimeError, OSError, pa.ArrowException
    ):  # removed meanwhile, or damaged: it is made anew with the next change
        if path.exists():
            faiss = _faiss()
            rows = pa.ipc.open_file(pa.memory_map(os.fspath(path.with_suffix(".arrow")))).read_all()
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
            faiss.downcast_InvertedLists(index.invlists).prefetch_nthread = 0  # 32 threads a search cost more than it
            return Ivf(index, rows, stamp)
    return None


class Ivf:
    """Cells, open for searching."""

    def __init__(self, index: Any, rows: pa.Table, stamp: int) -> None:
        self._index, self._rows, self.stamp = index, rows, stamp
        self._ids = rows["_rowid"].to_numpy()

    def nearest(self, vector: Floats, k: int) -> tuple[Floats, NDArray[np.int64]]:
        """Similarities [k] and ids [k] of what is nearest to `vector` [D]; fewer where its cells hold fewer."""
        similarity, ids = self._index.search(vector[None], k)
        found = ids[0] >= 0
        return similarity[0][found], ids[0][found]

    def rows(self, ids: NDArray[np.int64]) -> list[dict[str, Any]]:
        """Path, width and height of the rows with these ids: kept here, for LanceDB takes longer than the search."""
        found: list[dict[str, Any]] = self._rows.take(np.searchsorted(self._ids, ids.astype(np.uint64))).to_pylist()
        return [{name: row[name] for name in ABOUT} for row in found]


def renew_ivf(store: LanceStore) -> None:
    """Make the cells those of the present version of `store`, or remove them where it is small."""
    version, old = store.version, _files(store.folder)
    if version in old:
        return
    if len(store) > ROWS:
        index = (_carry_over(store, old[max(old)]) if old else None) or _build(store)
        path = store.folder / f"ivf-{version}.faiss"
        rows = _sorted_rows(store)
        one_chunk = partial(pa.feather.write_feather, rows, compression="uncompressed", chunksize=len(rows))
        _write(path.with_suffix(".arrow"), one_chunk)  # of several chunks, taking ten rows takes 4 ms
        _write(path, partial(_faiss().write_index, index))
    for path in old.values():
        path.unlink(missing_ok=True)
        path.with_suffix(".arrow").unlink(missing_ok=True)


def _sorted_rows(store: LanceStore) -> pa.Table:
    return store.columns(ABOUT).sort_by("_rowid").combine_chunks()


def _build(store: LanceStore) -> Any:
    faiss = _faiss()
    count = len(store)
    cells = round(4 * count**0.5)
    sample = _sample(store, np.sort(np.random.default_rng(0).permutation(count)[: _TRAINING * cells]))
    width = sample.shape[1]
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, cells, faiss.METRIC_INNER_PRODUCT)
    index.cp.niter, index.cp.min_points_per_centroid = _ROUNDS, 1
    index.train(sample)
    queries = torch.from_numpy(sample[:: max(len(sample) // _QUERIES, 1)][:_QUERIES].copy())
    best, names = torch.empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.int64)
    for ids, vectors in store.vectors():
        index.add_with_ids(vectors, ids)
        top = nearest(torch.from_numpy(vectors), queries, min(_NEIGHBOURS + 1, len(vectors)))
        best, names = torch.cat([best, top[0]], 1), torch.cat([names, torch.from_numpy(ids)[top[1]]], 1)
        place = best.topk(min(_NEIGHBOURS + 1, best.shape[1])).indices
        best, names = best.gather(1, place), names.gather(1, place)
    index.nprobe = _probes(index, queries.numpy(), names.numpy())
    return index


def _probes(index: Any, queries: Floats, true: NDArray[np.int64]) -> int:
    """The fewest cells in which the true neighbours are found (the query, which is one of them, is not counted)."""
    probes = 1
    while probes < index.nlist:
        index.nprobe = probes
        found = index.search(queries, true.shape[1])[1]
        hits = np.mean([np.isin(t[1:], f).mean() for t, f in zip(true, found, strict=True)])
        if hits >= RECALL:
            break
        probes = -(-probes * 3 // 2)
    return min(probes, int(index.nlist))


def _sample(store: LanceStore, places: NDArray[np.int64]) -> Floats:
    """The vectors at these places, in order."""
    first, parts = 0, []
    for _, vectors in store.vectors():
        inside = places[np.searchsorted(places, first) : np.searchsorted(places, first + len(vectors))]
        parts.append(vectors[inside - first])
        first += len(vectors)
    return np.concatenate(parts)


def _carry_over(store: LanceStore, path: Path) -> Any | None:
    """The old cells with what is new and without what is gone; None where that is much, or they are damaged."""
    faiss = _faiss()
    try:
        index = faiss.read_index(str(path))
    except RuntimeError:
        return None
    lists = index.invlists
    kept = [faiss.rev_swig_ptr(lists.get_ids(i), lists.list_size(i)).copy() for i in range(index.nlist)]
    old, now = np.concatenate(kept), store.ids()
    gone, new = np.setdiff1d(old, now), np.setdiff1d(now, old)
    if len(gone) + len(new) > _RENEWED * len(now):
        return None
    index.remove_ids(faiss.IDSelectorBatch(gone))
    for first in range(0, len(new), _TAKEN):
        ids = new[first : first + _TAKEN]
        vectors = np.array([row[VECTOR] for row in store.take(ids.tolist(), [VECTOR])], np.float32)
        index.add_with_ids(vectors, ids)
    return index


def _write(path: Path, write: Callable[[str], None]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(str(temporary))
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (RuntimeError, OSError) as problem:
        raise UserError(f"cannot write {path} ({str(problem).splitlines()[0][:100]})", "make room") from None
    finally:
        temporary.unlink(missing_ok=True)


def _files(folder: Path) -> dict[int, Path]:
    """The cells in a folder, by the version of the table that they are of."""
    named = [(_FILE.fullmatch(path.name), path) for path in folder.iterdir()]
    return {int(match[1]): path for match, path in named if match}


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise UserError("a large index needs faiss", "pip install dinokit[index]") from None
    return faiss
