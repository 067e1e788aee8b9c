"""Exact and indexed search on synthetic vectors: build time, memory, recall and latency, beside FAISS.

    python -m benchmarks.tasks.search

200,000 and 1,000,000 vectors of 384 numbers in clusters of 48 dimensions, on one core, taking turns with FAISS flat and
with the same FAISS cells in memory. They are kept in a temporary folder, 8 GB at most, which TMPDIR moves. Cold: the
first search with a query, while the pages of its cells are still to be mapped.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from benchmarks.tasks.models import run_alone
from dinokit.inference.backbone import Backbone
from dinokit.inference.embedding_table import VectorColumns
from dinokit.tasks.index import Index
from dinokit.tasks.retrieve import Collection

ANY_MODEL = True
COUNTS = (200_000, 1_000_000)
WIDTH, INNER, CLUSTERS = 384, 48, 2000
BLOCK = 50_000
QUERIES, IN_A_ROW, K = 80, 8, 10
JOB = {"model": "synthetic", "weights_sha256": "", "network_sha256": "", "size": 224, "tokens": "cls"}

Vectors = NDArray[np.float32]


def measure(models: Mapping[str, Backbone], data: Path) -> list[dict[str, Any]]:
    """The rows of each number of vectors; neither models nor data are looked at."""
    threads, rows = torch.get_num_threads(), list[dict[str, Any]]()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    try:
        for count in COUNTS:
            with tempfile.TemporaryDirectory() as folder:
                rows += speed_rows(count, Path(folder))
                print(rows[-1], flush=True)
    finally:
        torch.set_num_threads(threads)
    return rows


def synthetic(number: int, count: int) -> Vectors:
    """Block `number` of the vectors: clusters in 48 of 384 dimensions with a little noise in all."""
    fixed, own = np.random.default_rng(0), np.random.default_rng([1, number])
    centres, axes = fixed.standard_normal((CLUSTERS, INNER)), fixed.standard_normal((INNER, WIDTH))
    inner = centres[own.integers(CLUSTERS, size=count)] + 0.7 * own.standard_normal((count, INNER))
    found = (inner @ axes + 0.3 * own.standard_normal((count, WIDTH))).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def write_table(path: Path, count: int) -> None:
    """A table of embeddings with the numbers of the vectors as paths."""
    columns = VectorColumns(("embedding",), WIDTH, "float32")
    with pq.ParquetWriter(path, columns.schema(JOB), **columns.encoding()) as writer:
        for first in range(0, count, BLOCK):
            names = [str(n) for n in range(first, min(first + BLOCK, count))]
            flat = pa.array(synthetic(first // BLOCK, len(names)).reshape(-1))
            sides = pa.array([224] * len(names), pa.int32())
            vectors = pa.FixedSizeListArray.from_arrays(flat, WIDTH)
            parts = [pa.array(names), sides, sides, vectors]
            writer.write_table(pa.Table.from_arrays(parts, schema=columns.schema(JOB)), row_group_size=8192)


def speed_rows(count: int, folder: Path) -> list[dict[str, Any]]:
    """Build time, added memory, recall and latency of each way to search."""
    write_table(folder / "table.parquet", count)
    queries = synthetic(10**6, QUERIES)
    built: dict[str, tuple[float, float]] = {}

    def build(name: str, make: Callable[[], Any]) -> Any:
        before, started = anonymous_memory(), time.perf_counter()
        made = make()
        built[name] = (time.perf_counter() - started, anonymous_memory() - before)
        return made

    table = build("dinokit search", lambda: Collection(folder / "table.parquet", whiten=False))
    index = build("dinokit index", lambda: Index.build(folder / "index", table))
    flat = build("FAISS flat", lambda: fill_flat(count))
    cells = build("FAISS IVF, the same cells", lambda: faiss.read_index(str(next((folder / "index").glob("*.faiss")))))
    ways = {
        "FAISS flat": lambda q: flat.search(q[None], K)[1][0],
        "dinokit search": lambda q: table.nearest(q[None], K)[1][0],
        "FAISS IVF, the same cells": lambda q: cells.search(q[None], K)[1][0],
        "dinokit index": lambda q: [int(entry["path"]) for entry in index.nearest(q, K)],
    }
    names = dict(zip(index.store.ids().tolist(), stored_numbers(index), strict=True))
    first = [timed(partial(index.nearest, query, K)) for query in queries]
    seconds, recalls = time_ways(ways, queries, names)
    base = statistics.median(seconds["FAISS flat"])
    return [
        {
            "job": "search",
            "on": f"{count:,} x {WIDTH}",
            "what": name,
            "build s": round(built[name][0], 1),
            "added MB": round(built[name][1] / 1e6),
            "recall@10": round(recalls[name], 4),
            "median ms": round(1000 * statistics.median(seconds[name]), 2),
            "share of flat": round(statistics.median(seconds[name]) / base, 4),
            "cold ms": round(1000 * statistics.median(first), 2) if name == "dinokit index" else "",
        }
        for name in ways
    ]


def time_ways(
    ways: Mapping[str, Callable[[Vectors], Any]], queries: Vectors, names: Mapping[int, int]
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of each way, and the recall of what it finds.

    The ways take turns, each with `IN_A_ROW` queries one after another, as a person or a server sends them; the first
    of a turn finds the caches as another way left them and is not counted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    shares: dict[str, list[float]] = {name: [] for name in ways}
    for first in range(0, len(queries), IN_A_ROW):
        turn, true = queries[first : first + IN_A_ROW], list[set[int]]()
        for name, search in ways.items():
            found, times = [], []
            for query in turn:
                started = time.perf_counter()
                found.append(search(query))
                times.append(time.perf_counter() - started)
            seconds[name] += times[1:]
            rows = [{names[int(i)] if name.startswith("FAISS IVF") else int(i) for i in one} for one in found]
            true = true or rows
            shares[name] += [len(ours & theirs) / K for ours, theirs in zip(rows, true, strict=True)]
    return seconds, {name: statistics.mean(part) for name, part in shares.items()}


def timed(run: Callable[[], Any]) -> float:
    """Seconds that it takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def fill_flat(count: int) -> Any:
    """FAISS's exact index of all vectors."""
    flat = faiss.IndexFlatIP(WIDTH)
    for first in range(0, count, BLOCK):
        flat.add(synthetic(first // BLOCK, min(BLOCK, count - first)))
    return flat


def stored_numbers(index: Index) -> list[int]:
    """The number of the vector in each row of an index, in its order."""
    ids = index.store.ids().tolist()
    rows = (index.store.take(ids[first : first + BLOCK], ["path"]) for first in range(0, len(ids), BLOCK))
    return [int(row["path"]) for part in rows for row in part]


def anonymous_memory() -> int:
    """Bytes of this process that no file backs."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    run_alone(measure)
