"""Pictures in, one file of patch features each: `dinokit features`.

Features are written as they come, so memory holds two chunks (`stream`), however many pictures. A picture is done
when its line stands in the manifest, which comes after its file: what a killed run left behind is written again, and
the same command goes on where the lines end. Files are named by the number of the picture, so that no two pictures
share one and no name leads out of the folder.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray

from dinokit.backbones.features import Features, Grid
from dinokit.checkpoints.folders import hold
from dinokit.checkpoints.names import lossless
from dinokit.checkpoints.save import write_atomically
from dinokit.data.listing import SkippedFiles
from dinokit.data.opening import open_pictures
from dinokit.data.track import Track
from dinokit.errors import UserError
from dinokit.inference.backbone import Backbone
from dinokit.inference.jobs import JOB, check_numbers, check_unused, claim, describe_job
from dinokit.inference.stream import Seen, Stream

MANIFEST = "features.jsonl"
ERRORS = "errors.jsonl"
KEY = "patches"
"""Of the tensor in a safetensors file."""
_STEM_LENGTH = 60
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")

Format = Literal["safetensors", "npy"]


@dataclass(frozen=True)
class DenseSettings:
    """How features are computed and stored."""

    size: int | None = None
    """Short side in pixels; None: the model's own."""
    format: Format = "safetensors"
    batch_size: int = 16


@dataclass(frozen=True)
class PatchMap:
    """The patch features of one picture, float16 [h, w, D], and where its cells lie."""

    values: NDArray[np.float16]
    grid: Grid


def write_features(
    sources: Sequence[str],
    out: Path,
    backbone: Backbone,
    settings: DenseSettings,
    track: Track,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Write the patch features of each readable picture of `sources` into a file of its own in the folder `out`.

    `features.jsonl` has a line for each (`describe_file`), `errors.jsonl` one for each that could not be read. `say`
    is told of work that is continued. Returns `files`, `skipped` (a number), `summary` (a line about them),
    `continued` (pictures that an earlier run had done), `dimensions`. Raises `UserError` before the work for anything
    that would make it fail, such as a folder of another job, and if no picture can be read.
    """
    check_numbers(settings.batch_size, settings.size, backbone.spec.side_multiple)
    skipped = SkippedFiles()
    pictures = open_pictures(list(sources), skipped)
    size, bytes_per_pixel = settings.size or backbone.info.image_size, 2 * backbone.embed_dim / backbone.patch_size**2
    stream = Stream(pictures, backbone, size, settings.batch_size, take_patches, bytes_per_pixel)
    check_unused(out)
    with hold(out, "at work"):
        claim(out, describe_job(pictures, backbone, size, format=settings.format))
        folder = _Folder(out, settings.format)
        if continued := folder.done:
            say(f"going on after {continued} pictures")
        _write_rest(stream, folder, track)
        bad = [(entry["path"], entry["reason"]) for entry in folder.errors.entries()]
        if len(bad) == len(pictures):
            folder.discard()
            stream.refuse(bad)
    for name, reason in bad:
        skipped.add(name, reason)
    return {
        "files": len(pictures) - len(bad),
        "skipped": len(skipped),
        "summary": skipped.summary(),
        "continued": continued,
        "dimensions": backbone.embed_dim,
    }


def take_patches(features: Sequence[Features]) -> list[PatchMap]:
    """The patches of one picture each as float16."""
    found = []
    for one in features:
        assert one.grid is not None
        values = one.patches[0].to(torch.float16).cpu()
        if not bool(values.isfinite().all()):
            raise UserError("features are no finite float16 numbers", "take --precision fp32, or check the model")
        found.append(PatchMap(values.numpy(), one.grid))
    return found


def describe_file(number: int, path: str, file: str, seen: Seen[PatchMap]) -> dict[str, Any]:
    """A line of the manifest: what lies in `file`.

    The centre of cell (row, col) lies at the pixel `origin` + (col, row) * `step`, both (x, y), of the source picture.
    """
    assert seen.found is not None
    grid = seen.found.grid
    origin, beside = grid.to_pixels(torch.tensor([[0, 0], [1, 1]])).tolist()
    return {
        "number": number,
        "path": path,
        "file": file,
        "rows": grid.rows,
        "cols": grid.cols,
        "height": seen.shape[0],
        "width": seen.shape[1],
        "origin": origin,
        "step": [after - before for before, after in zip(origin, beside, strict=True)],
    }


class _Lines:
    """A file of JSON lines with the number of a picture each, in order, that grows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ends: dict[int, int] = {}
        """Where the line of each picture ends, in bytes; a line that a killed process left half counts for nothing."""
        end = 0
        with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
            for line in file:
                number = _number_in(line)
                if number is None:
                    break
                end += len(line)
                self.ends[number] = end

    def cut(self, done: int) -> None:
        """Leave the lines of the pictures before number `done`."""
        self.ends = {number: end for number, end in self.ends.items() if number < done}
        with contextlib.suppress(FileNotFoundError):
            os.truncate(self.path, max(self.ends.values(), default=0))

    def add(self, entry: dict[str, Any]) -> None:
        """Append a line."""
        line = json.dumps(entry).encode() + b"\n"
        try:
            with open(self.path, "ab") as file:
                file.write(line)
                self.ends[entry["number"]] = file.tell()
        except OSError as problem:
            what = f"cannot write {self.path} ({problem.strerror})"
            raise UserError(what, "make room; the same command continues") from None

    def entries(self) -> Iterator[dict[str, Any]]:
        """What the lines say."""
        with contextlib.suppress(FileNotFoundError), open(self.path, "rb") as file:
            yield from map(json.loads, file)


def _number_in(line: bytes) -> int | None:
    try:
        entry = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    number = entry.get("number") if isinstance(entry, dict) else None
    return number if isinstance(number, int) else None


class _Folder:
    """The files and lines of one job, as far as it has come."""

    def __init__(self, path: Path, form: Format) -> None:
        self.path, self.form = path, form
        self.manifest, self.errors = _Lines(path / MANIFEST), _Lines(path / ERRORS)
        known = self.manifest.ends.keys() | self.errors.ends.keys()
        self.done = next(number for number in itertools.count() if number not in known)
        for lines in (self.manifest, self.errors):
            lines.cut(self.done)
        for temporary in path.glob(".*.tmp"):  # of a killed run
            temporary.unlink(missing_ok=True)

    def add(self, place: str, seen: Seen[PatchMap]) -> None:
        """Take the next picture."""
        number, path = self.done, lossless(place)
        if seen.found is None:
            self.errors.add({"number": number, "path": path, "reason": lossless(seen.unreadable)})
        else:
            stem = _UNSAFE.sub("_", os.path.splitext(os.path.basename(place))[0])[:_STEM_LENGTH]
            name = f"{number:08d}-{stem}.{self.form}"
            write_atomically(self.path / name, _pack(seen.found.values, self.form))
            self.manifest.add(describe_file(number, path, name, seen))
        self.done += 1

    def discard(self) -> None:
        """Forget the job; there are no files."""
        for name in (JOB, MANIFEST, ERRORS):
            (self.path / name).unlink(missing_ok=True)


def _pack(values: NDArray[np.float16], form: Format) -> bytes:
    if form == "safetensors":
        return safetensors.numpy.save({KEY: np.ascontiguousarray(values)})
    content = io.BytesIO()
    np.save(content, values, allow_pickle=False)
    return content.getvalue()


def _write_rest(stream: Stream[PatchMap], folder: _Folder, track: Track) -> None:
    total = len(stream.pictures)
    chunks = stream.chunks(range(folder.done, total))
    with contextlib.closing(chunks):
        seen = (one for chunk in chunks for one in chunk)
        for one in track(seen, total, "writing features", folder.done):
            folder.add(stream.pictures.place(folder.done), one)
