"""What a classifier says of a picture."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinokit.checkpoints.folders import make_folder, unwritable
from dinokit.checkpoints.save import write_atomically
from dinokit.images.charts import draw_bars
from dinokit.images.read import Picture
from dinokit.tasks.results import check_name, write_csv


@dataclass(frozen=True)
class Classification:
    """The probabilities of the classes of a picture."""

    probabilities: NDArray[np.float32]
    """[K], calibrated: of all that are 0.8, about eight in ten are right. They sum to 1 unless there are several
    labels."""
    classes: tuple[str, ...]
    picture: Picture
    several: bool = False
    """Whether a picture may have several labels, or none."""

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.classes[int(self.probabilities.argmax())]

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes that the picture has: the most probable one; with several labels, those of 0.5 and more."""
        if not self.several:
            return (self.label,)
        return tuple(name for name, value in self.ranked() if value >= 0.5)

    def ranked(self, count: int | None = None) -> list[tuple[str, float]]:
        """Classes with their probabilities, the most probable first."""
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.classes[i], float(self.probabilities[i])) for i in order]

    def to_row(self, count: int = 1) -> dict[str, Any]:
        """For JSON: the labels, and the `count` most probable classes."""
        top = [{"class": name, "probability": round(value, 6)} for name, value in self.ranked(count)]
        return {"labels": self.labels, "top": top}

    def describe(self, count: int = 1) -> str:
        """The labels, or the `count` most probable classes, in words with probabilities."""
        ranked = self.ranked(count)
        if self.several and count == 1:
            ranked = [(name, value) for name, value in self.ranked() if value >= 0.5]
        return ", ".join(f"{name} {100 * value:.1f} %" for name, value in ranked) or "none"

    def draw(self) -> Picture:
        """The picture, and bars for its five most probable classes."""
        names, values = zip(*self.ranked(5), strict=True)
        return draw_bars(self.picture, names, values)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write labels and all probabilities: one JSON object, or rows of class,probability in a CSV file."""
        path = Path(path)
        check_name(path, (".json", ".csv"))
        if path.suffix.lower() == ".json":
            values = {"labels": self.labels, "probabilities": {name: round(p, 6) for name, p in self.ranked()}}
            write_atomically(path, (json.dumps(values, ensure_ascii=False, indent=1) + "\n").encode("utf-8", "replace"))
        else:
            write_csv(path, ("class", "probability"), ((name, f"{p:.6f}") for name, p in self.ranked()))


@contextmanager
def prediction_table(out: Path | None, classes: Sequence[str]) -> Iterator[Callable[[str, Classification], None]]:
    """A table of pictures with their labels and the probability of each class; hands out what adds a row.

    out: the file; None: no table. Rows are written one by one: whatever ends the work, those that are finished are
    there. Raises `UserError` for a name that does not end in .csv, and where it cannot be written.
    """
    if out is None:
        yield lambda path, result: None
        return
    check_name(out, (".csv",))
    make_folder(out.parent)
    try:
        file = out.open("w", newline="", encoding="utf-8", errors="replace")
    except OSError as problem:
        raise unwritable(out, problem.strerror) from None
    with file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("path", "label", "probability", *classes))

        def add(path: str, result: Classification) -> None:
            figures = [f"{value:.6f}" for value in result.probabilities]
            writer.writerow([path, ";".join(result.labels), max(figures), *figures])
            file.flush()

        yield add
