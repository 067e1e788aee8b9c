"""What a classifier says of a picture."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinokit.checkpoints.folders import make_folder
from dinokit.checkpoints.save import write_atomically
from dinokit.errors import UserError
from dinokit.images.charts import draw_bars
from dinokit.images.read import Picture


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
        if path.suffix == ".json":
            values = {"labels": self.labels, "probabilities": {name: round(p, 6) for name, p in self.ranked()}}
            write_atomically(path, (json.dumps(values, ensure_ascii=False, indent=1) + "\n").encode())
        elif path.suffix == ".csv":
            write_csv(path, ("class", "probability"), ((name, f"{p:.6f}") for name, p in self.ranked()))
        else:
            raise UserError(f"{path} has no ending that can be written", "name it .json or .csv")


class Predictions:
    """What was said of many pictures: summaries, and a table in the file `out`, if there is one."""

    def __init__(self, classes: tuple[str, ...], out: Path | None = None) -> None:
        if out is not None and out.suffix != ".csv":
            raise UserError(f"--out is {out}", "name it FILE.csv")
        if out is not None:
            make_folder(out.parent)
        self.classes, self.out = classes, out
        self.summaries: list[dict[str, Any]] = []
        self._rows: list[list[str]] = []

    def add(self, path: str, result: Classification, top: int = 1) -> None:
        """Take in the result of the picture at `path`."""
        ranked = [{"class": name, "probability": round(value, 6)} for name, value in result.ranked(top)]
        self.summaries.append({"picture": path, "labels": result.labels, "top": ranked})
        if self.out is not None:
            figures = [f"{value:.6f}" for value in result.probabilities]
            self._rows.append([path, ";".join(result.labels), f"{result.probabilities.max():.6f}", *figures])

    def write(self) -> None:
        """Write the table."""
        if self.out is not None:
            write_csv(self.out, ("path", "label", "probability", *self.classes), self._rows)


def write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write a table, whole or not at all."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())
