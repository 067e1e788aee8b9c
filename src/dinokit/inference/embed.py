"""Pictures in, a table of embeddings out: `dinokit embed`.

Finished pictures are kept in parts (`embedding_table`), so that a job that was interrupted and continued gives the
rows of an undisturbed one, to rounding: each process chooses the fastest form of attention by itself. Memory holds
two chunks (`stream`) and a part, however many pictures. Where one machine is outgrown, the chunks come from the
workers of a Ray cluster instead (`embed_ray`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from dinokit.backbones.features import Features
from dinokit.checkpoints.folders import hold
from dinokit.checkpoints.names import lossless
from dinokit.checkpoints.save import write_atomically
from dinokit.data.listing import SkippedFiles
from dinokit.data.opening import open_pictures
from dinokit.data.pictures import Pictures
from dinokit.data.track import Track
from dinokit.errors import UserError
from dinokit.inference.backbone import Backbone
from dinokit.inference.embed_ray import chunks_by_workers
from dinokit.inference.embedding_table import (
    ERRORS,
    PartFolder,
    Row,
    VectorColumns,
    Vectors,
    check_output,
    parts_of,
)
from dinokit.inference.jobs import check_numbers, describe_job
from dinokit.inference.stream import Seen, Stream

Tokens = Literal["cls", "mean", "cls+mean"]
_COLUMNS: dict[Tokens, tuple[str, ...]] = {
    "cls": ("embedding",),
    "mean": ("embedding",),
    "cls+mean": ("embedding", "mean_patch"),
}


@dataclass(frozen=True)
class EmbedSettings:
    """What a row holds, and how it is computed."""

    size: int | None = None
    """Short side in pixels; None: the model's own."""
    tokens: Tokens = "cls"
    """What `embedding` holds, the class token or the mean of the patches; "cls+mean" has the latter beside it."""
    dtype: Literal["float32", "float16"] = "float32"
    """Of the columns of vectors."""
    batch_size: int = 16
    ray_workers: int | None = None
    """Processes under Ray Data that share the work; None: this process does it."""

    def __post_init__(self) -> None:
        if self.ray_workers is not None and self.ray_workers < 1:
            raise UserError(f"--ray is {self.ray_workers}", "give the number of workers, 1 or more")


def embed_pictures(
    sources: Sequence[str],
    out: Path,
    backbone: Backbone,
    settings: EmbedSettings,
    track: Track,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Write one row for each readable picture of `sources`, in order, into the Parquet file `out`.

    Columns and how the work is kept: `embedding_table`. What could not be read is listed in `OUT.errors.jsonl`. `say`
    is told of work that is continued. Returns `rows`, `skipped` (a number), `summary` (a line about them),
    `continued` (pictures that an earlier run had done), `dimensions`, `images_per_second`. Raises `UserError` before
    the work for anything that would make it fail, such as another process that writes the same table, and if no
    picture can be read.
    """
    check_output(out)
    check_numbers(settings.batch_size, settings.size, backbone.spec.side_multiple)
    skipped = SkippedFiles()
    stream = _open_stream(open_pictures(list(sources), skipped), backbone, settings)
    with hold(parts_of(out), "at work"):
        folder = _open_folder(out, stream, settings)
        if continued := folder.done:
            say(f"going on after {continued} pictures")
        rate = _embed_rest(stream, folder, settings.ray_workers, track)
        bad = list(folder.unreadable())
        if len(bad) == len(stream.pictures):
            folder.discard()
            stream.refuse(bad)
        _list_errors(out, bad, skipped)
        rows = folder.finish()
    return {
        "rows": rows,
        "skipped": len(skipped),
        "summary": skipped.summary(),
        "continued": continued,
        "dimensions": backbone.embed_dim,
        "images_per_second": round(rate, 1),
    }


def _open_stream(pictures: Pictures, backbone: Backbone, settings: EmbedSettings) -> Stream[Vectors]:
    size = settings.size or backbone.info.image_size
    return Stream(pictures, backbone, size, settings.batch_size, partial(take_vectors, tokens=settings.tokens))


def _open_folder(out: Path, stream: Stream[Vectors], settings: EmbedSettings) -> PartFolder:
    options = {"tokens": settings.tokens, "dtype": settings.dtype}
    job = describe_job(stream.pictures, stream.backbone, stream.size, **options)
    columns = VectorColumns(_COLUMNS[settings.tokens], stream.backbone.embed_dim, settings.dtype)
    return PartFolder(out, job, columns)


def take_vectors(features: Sequence[Features], tokens: Tokens) -> list[Vectors]:
    """The vectors [D] of each picture in float32, one for each column."""
    found = []
    if "cls" in tokens:
        found.append(torch.cat([one.cls for one in features]))
    if "mean" in tokens:
        found.append(torch.cat([one.patches.float().mean(dim=(1, 2)) for one in features]))
    return list(zip(*(vectors.float().cpu().numpy() for vectors in found), strict=True))


def _embed_rest(stream: Stream[Vectors], folder: PartFolder, workers: int | None, track: Track) -> float:
    """Embed what is not done yet; returns pictures a second. However it ends, finished chunks are written."""
    rest, started = range(folder.done, len(stream.pictures)), time.perf_counter()
    chunks = stream.chunks(rest) if workers is None else chunks_by_workers(stream, rest, workers)

    def work() -> Iterator[int]:
        number = rest.start
        for chunk in chunks:
            places = (stream.pictures.place(i) for i in range(number, number + len(chunk)))
            folder.add([_row(place, seen) for place, seen in zip(places, chunk, strict=True)])
            number += len(chunk)
            yield from range(len(chunk))

    try:
        for _ in track(work(), len(stream.pictures), "embedding pictures", rest.start):
            pass
    finally:
        chunks.close()
        folder.flush()
    return len(rest) / (time.perf_counter() - started)


def _row(place: str, seen: Seen[Vectors]) -> Row:
    height, width = seen.shape
    return Row(place, width, height, seen.found, seen.unreadable)


def _list_errors(out: Path, bad: Sequence[tuple[str, str]], skipped: SkippedFiles) -> None:
    """Write, or remove, the list of what was skipped: JSON lines of `path`, as in the table, and `reason`.

    `skipped` becomes complete: unreadable pictures join what was left out when the set was opened.
    """
    for name, reason in bad:
        skipped.add(name, reason)
    path = out.with_name(out.name + ERRORS)
    if not skipped.entries:
        path.unlink(missing_ok=True)
        return
    entries = ({"path": lossless(name), "reason": lossless(reason)} for name, reason in skipped.entries)
    lines = [json.dumps(entry) + "\n" for entry in entries]
    write_atomically(path, "".join(lines).encode())
