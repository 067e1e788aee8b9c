"""Pictures in, a table of class tokens out: `dinokit embed`.

The next pictures are decoded by threads while the network looks at the present ones. Work goes in chunks that lie
at fixed places of the list and finished chunks are kept (`embedding_table`), so that a job that was interrupted
and continued gives the rows of an undisturbed one, to rounding: each process chooses the fastest form of attention
by itself. Memory holds two chunks and a part, however many pictures.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from dinokit.checkpoints.folders import hold
from dinokit.checkpoints.names import lossless
from dinokit.checkpoints.save import write_atomically
from dinokit.data.listing import SkippedFiles
from dinokit.data.opening import open_pictures
from dinokit.data.pictures import Pictures
from dinokit.data.track import Track
from dinokit.errors import UserError
from dinokit.images.geometry import fit_to_grid, to_grid
from dinokit.images.read import ReadError, read
from dinokit.inference import embedding_table
from dinokit.inference.backbone import Backbone
from dinokit.inference.embedding_table import PartFolder, Row, check_output, parts_of

_CHUNK_BATCHES = 4
_PART_SECONDS = 30.0

_Decoded = tuple[torch.Tensor, tuple[int, int]]
"""A view uint8 [3, H, W] on the patch grid, and (height, width) of the source picture in pixels."""


def embed_pictures(
    sources: Sequence[str],
    out: Path,
    *,
    backbone: Backbone,
    size: int | None,
    batch_size: int,
    track: Track,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Write one row for each readable picture of `sources`, in order, into the Parquet file `out`.

    size: short side in pixels; None: the model's own. Columns and how the work is kept: `embedding_table`. What
    could not be read is listed in `OUT.errors.jsonl`. `say` is told of work that is continued. Returns `rows`,
    `skipped` (a number), `summary` (a line about them), `continued` (pictures that an earlier run had done),
    `dimensions`, `images_per_second`. Raises `UserError` before the work for anything that would make it fail, such
    as another process that writes the same table, and if no picture can be read.
    """
    check_output(out)
    _check_numbers(batch_size, size, backbone.patch_size)
    skipped = SkippedFiles()
    pictures = open_pictures(list(sources), skipped)
    side = backbone.info.image_size if size is None else size
    with hold(parts_of(out), "at work"):
        folder = PartFolder(out, _describe_job(pictures, backbone, side), backbone.embed_dim)
        continued = folder.done
        if continued:
            say(f"going on after {continued} pictures")
        rate = _embed_rest(pictures, backbone, side, batch_size, folder, track)
        _check_any_readable(pictures, folder, side, backbone.patch_size)
        _list_errors(out, folder, skipped)
        rows = folder.finish()
    return {
        "rows": rows,
        "skipped": len(skipped),
        "summary": skipped.summary(),
        "continued": continued,
        "dimensions": backbone.embed_dim,
        "images_per_second": round(rate, 1),
    }


def _check_numbers(batch_size: int, size: int | None, patch: int) -> None:
    if batch_size < 1:
        raise UserError(f"--batch-size is {batch_size}", "give 1 or more")
    if size is not None:
        fit_to_grid(1, 1, size, patch)  # an impossible size is an error before the work


def _describe_job(pictures: Pictures, backbone: Backbone, size: int) -> dict[str, Any]:
    """What makes two jobs the same: the model, how pictures are read, and which pictures in which order."""
    names = hashlib.sha256()
    for i in range(len(pictures)):
        names.update(lossless(pictures.place(i)).encode() + b"\0")
    config = backbone.info.to_config()
    network = json.dumps([config[name] for name in ("network", "mean", "std")])
    return {
        "model": backbone.info.name,
        "weights_sha256": backbone.info.weights_sha256,
        "network_sha256": hashlib.sha256(network.encode()).hexdigest(),
        "precision": str(backbone.dtype).removeprefix("torch."),
        "size": size,
        "pictures": len(pictures),
        "list_sha256": names.hexdigest(),
    }


def _embed_rest(
    pictures: Pictures, backbone: Backbone, size: int, batch_size: int, folder: PartFolder, track: Track
) -> float:
    """Embed what is not done yet; returns pictures a second. However it ends, finished chunks are written."""
    waiting: list[tuple[int, list[Row]]] = []
    rest, started = range(folder.done, len(pictures)), time.perf_counter()
    chunks = _embed_chunks(pictures, backbone, size, batch_size, rest)

    def keep() -> None:
        """Write the finished chunks that no part holds yet; safe to repeat wherever Ctrl-C struck."""
        rows = [row for first, chunk in waiting if first >= folder.done for row in chunk]
        if rows:
            folder.add(rows)
        waiting.clear()

    def work() -> Iterator[int]:
        written, first = time.perf_counter(), rest.start
        for rows in chunks:
            waiting.append((first, rows))
            first += len(rows)
            late = time.perf_counter() - written > _PART_SECONDS
            if late or first - folder.done >= embedding_table.PART_PICTURES:
                keep()
                written = time.perf_counter()
            yield from range(len(rows))

    try:
        for _ in track(work(), len(pictures), "embedding pictures", rest.start):
            pass
    finally:
        chunks.close()
        keep()
    return len(rest) / (time.perf_counter() - started)


def _embed_chunks(
    pictures: Pictures, backbone: Backbone, size: int, batch_size: int, numbers: range
) -> Generator[list[Row], None, None]:
    """Rows of chunk after chunk; the next chunk is decoded while one goes through the network."""
    step = _CHUNK_BATCHES * batch_size
    chunks = [numbers[start : start + step] for start in range(0, len(numbers), step)]
    pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="decode")

    def submit(chunk: range) -> list[Future[_Decoded]]:
        return [pool.submit(_decode, pictures, i, size, backbone.patch_size) for i in chunk]

    try:
        ahead = submit(chunks[0]) if chunks else []
        for place, chunk in enumerate(chunks):
            present, ahead = ahead, submit(chunks[place + 1]) if place + 1 < len(chunks) else []
            yield _embed_chunk([pictures.place(i) for i in chunk], present, backbone, batch_size)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _decode(pictures: Pictures, i: int, size: int, patch: int) -> _Decoded:
    picture = read(pictures.read_bytes(i), name=pictures.place(i))
    return to_grid(picture, size, patch, pictures.place(i)), (picture.shape[0], picture.shape[1])


def _embed_chunk(
    paths: Sequence[str], decoded: Sequence[Future[_Decoded]], backbone: Backbone, batch_size: int
) -> list[Row]:
    rows: list[Row | None] = []
    good: list[_Decoded] = []
    for path, future in zip(paths, decoded, strict=True):
        try:
            good.append(future.result())
            rows.append(None)
        except ReadError as error:
            rows.append(Row(path, unreadable=error.reason))
    features = iter(backbone.encode_views([view for view, _ in good], [shape for _, shape in good], batch_size))
    shapes = iter(shape for _, shape in good)
    return [_row(path, next(shapes), next(features).cls[0]) if row is None else row
            for path, row in zip(paths, rows, strict=True)]  # fmt: skip


def _row(path: str, shape: tuple[int, int], token: torch.Tensor) -> Row:
    embedding = token.float().cpu().numpy().copy()  # [D], a copy: the patches are let go
    return Row(path, shape[1], shape[0], embedding)


def _check_any_readable(pictures: Pictures, folder: PartFolder, size: int, patch: int) -> None:
    """Raise `UserError`, and forget the job, if not a single picture could be read."""
    bad = list(folder.unreadable())
    if len(bad) < len(pictures):
        return
    folder.discard()
    if len(pictures) == 1:
        _decode(pictures, 0, size, patch)  # raises, with what to do about it
    raise UserError(
        f"none of the {len(bad)} pictures can be read, for example: {bad[0][0]} {bad[0][1]}",
        "name JPEG, PNG or WebP pictures",
    )


def _list_errors(out: Path, folder: PartFolder, skipped: SkippedFiles) -> None:
    """Write, or remove, the list of what was skipped: JSON lines of `path`, as in the table, and `reason`.

    `skipped` becomes complete: unreadable pictures join what was left out when the set was opened.
    """
    for name, reason in folder.unreadable():
        skipped.add(name, reason)
    path = out.with_name(out.name + embedding_table.ERRORS)
    if not skipped.entries:
        path.unlink(missing_ok=True)
        return
    entries = ({"path": lossless(name), "reason": lossless(reason)} for name, reason in skipped.entries)
    lines = [json.dumps(entry) + "\n" for entry in entries]
    write_atomically(path, "".join(lines).encode())
