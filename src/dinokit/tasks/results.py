"""How results are written: into formats that others read, by the name's ending, whole or not at all."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dinokit.checkpoints.folders import make_folder
from dinokit.checkpoints.save import write_atomically
from dinokit.errors import UserError
from dinokit.images.read import Picture, ReadError, Source

DRAWN = "-drawn.jpg"
"""Ends the name of a result that is drawn."""
PICTURES = (".png", ".jpg", ".jpeg")
"""Endings of pictures that can be written."""


def save_labels(path: Path, labels: NDArray[np.uint8], colours: Picture) -> None:
    """Write numbers [H, W] as an indexed PNG with `colours` [K, 3], or as they are where the name ends in .npy."""
    if path.suffix == ".npy":
        return save_array(path, labels)
    image = Image.fromarray(labels, mode="P")
    image.putpalette(np.asarray(colours, dtype=np.uint8).tobytes())
    return save_image(path, image, (".png",))


def write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write a table, whole or not at all."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode("utf-8", "replace"))


def save_array(path: Path, values: NDArray[Any]) -> None:
    """Write an array as .npy."""
    content = io.BytesIO()
    np.save(content, values, allow_pickle=False)
    write_atomically(path, content.getvalue())


def save_picture(path: Path, picture: Picture) -> None:
    """Write a picture uint8 [H, W, 3] as .png or .jpg."""
    save_image(path, Image.fromarray(picture), PICTURES)


def check_name(path: Path, endings: tuple[str, ...] = PICTURES) -> None:
    """Raise `UserError` for another ending than these, before the work."""
    if path.suffix.lower() not in endings:
        names = " or ".join(filter(None, (", ".join(endings[:-1]), endings[-1])))
        raise UserError(f"{path} has no ending that can be written", f"name it {names}")


def check_out(out: Path, endings: tuple[str, ...], sources: Sequence[Source]) -> None:
    """Raise `UserError` for a file that cannot be written, or that is one of its `sources`; its folder is made."""
    check_name(out, endings)
    check_not_input(out, sources)
    make_folder(out.parent)


def check_not_input(out: Path, sources: Sequence[Source]) -> None:
    """Raise `UserError` where `out` is one of the files that it is made from, before the work."""
    _check_not_among([out], sources)


def _check_not_among(outputs: Iterable[Path], sources: Sequence[Source]) -> None:
    inputs = {Path(source).resolve() for source in sources if isinstance(source, (str, os.PathLike))}
    for path in outputs:
        if path.resolve() in inputs:
            raise UserError(f"{path} is one of the inputs and would be overwritten", "give another --out")


def save_image(path: Path, image: Image.Image, endings: tuple[str, ...]) -> None:
    """Write a Pillow picture. `UserError` for another ending than these."""
    check_name(path, endings)
    content = io.BytesIO()
    image.save(content, "PNG" if path.suffix.lower() == ".png" else "JPEG", quality=92)
    write_atomically(path, content.getvalue())


def free_names(sources: Sequence[Source], out: Path, endings: Sequence[str], taken: Sequence[str] = ()) -> list[str]:
    """A name for the results of each picture in the folder `out`, which is made: of its file, none of them twice.

    -2, ... is added where another has the name. endings: of the files that a name gets. taken: names of others.
    Raises `UserError` where the folder cannot be written, or such a file is one of the pictures.
    """
    make_folder(out)
    names: dict[str, None] = dict.fromkeys(taken)
    counts: Counter[str] = Counter()
    for number, source in enumerate(sources):
        stem = name = Path(source).stem if isinstance(source, (str, os.PathLike)) else f"picture-{number}"
        while name in names:
            counts[stem] += 1
            name = f"{stem}-{counts[stem] + 1}"
        names[name] = None
    _check_not_among((out / f"{name}{ending}" for name in names for ending in endings), sources)
    return list(names)[len(set(taken)) :]


class Drawable(Protocol):
    """A result that can be looked at and kept."""

    def draw(self) -> Picture: ...
    def save(self, path: Path, /) -> None: ...


T = TypeVar("T")
Result = TypeVar("Result", bound=Drawable)


def each_readable(
    predict: Callable[[Sequence[Source]], Iterable[T]],
    sources: Sequence[Source],
    warn: Callable[[str], None],
    together: int = 1,
) -> Iterator[tuple[int, T]]:
    """The number and the result of each picture, `together` of them at a time; those that cannot be read are left out.

    `warn` is told of these. Raises `UserError` where no picture can be read.
    """
    failures = 0
    for first in range(0, len(sources), together):
        attempts = [list(range(first, min(first + together, len(sources))))]
        while attempts:
            numbers = attempts.pop(0)
            try:
                for result in predict([sources[i] for i in numbers]):
                    yield numbers.pop(0), result
            except ReadError as error:
                if len(numbers) > 1:
                    attempts = [[i] for i in numbers]
                    continue
                failures += 1
                if failures == len(sources):
                    raise
                warn(f"{error.message}; skipped ({error.hint})" if error.hint else f"{error.message}; skipped")


def predict_files(
    predict: Callable[[Source], Result],
    sources: Sequence[Source],
    out: Path,
    ending: str,
    warn: Callable[[str], None],
) -> Iterator[tuple[Source, Result, Path]]:
    """Write the result of each picture into the folder `out`: NAME`ending`, and NAME-drawn.jpg to look at.

    Yields each picture, its result and the file. Pictures that cannot be read are told to `warn`. Raises `UserError`
    as `free_names`, and where no picture can be read.
    """
    names = free_names(sources, out, (ending, DRAWN))
    for i, result in each_readable(lambda part: map(predict, part), sources, warn):
        path = out / f"{names[i]}{ending}"
        result.save(path)
        save_picture(out / f"{names[i]}{DRAWN}", result.draw())
        yield sources[i], result, path
