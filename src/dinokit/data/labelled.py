"""Pictures with the names of their classes: a folder per class, tar shards with .cls, or a CSV file.

A CSV file has the columns path and label, relative to it; `path,label;label` gives a picture several labels (or none).
A first line that names the columns may be there or not.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dinokit.data.folder import Files, Folder
from dinokit.data.listing import SkippedFiles
from dinokit.data.opening import open_pictures
from dinokit.data.picture_table import read_lines
from dinokit.data.pictures import Pictures, subset
from dinokit.errors import UserError

_BETWEEN = ";"


@dataclass(frozen=True)
class Labelled:
    """A set of pictures, and which classes each belongs to."""

    pictures: Pictures
    labels: tuple[tuple[int, ...], ...]
    """Of each picture, numbers of `classes`."""
    classes: tuple[str, ...]
    several: bool = False
    """Whether a picture may have several labels, or none."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def name(self) -> str:
        """What to call the set in messages."""
        return self.pictures.name

    def targets(self) -> NDArray[np.bool_]:
        """Which picture belongs to which class: [N, K]."""
        found = np.zeros((len(self), len(self.classes)), dtype=bool)
        for i, labels in enumerate(self.labels):
            found[i, list(labels)] = True
        return found

    def part(self, indices: Sequence[int]) -> Labelled:
        """The pictures with these numbers."""
        chosen = [int(i) for i in indices]
        return replace(self, pictures=subset(self.pictures, chosen), labels=tuple(self.labels[i] for i in chosen))

    def in_classes(self, classes: Sequence[str], several: bool) -> Labelled:
        """The same in the classes of a head. Raises `UserError` for a class that the head did not learn."""
        if self.several and not several:
            raise UserError(f"{self.name} has pictures with several labels", "the head learnt one label a picture")
        numbers = {name: number for number, name in enumerate(classes)}
        used = sorted({self.classes[n] for labels in self.labels for n in labels} - numbers.keys())
        if used:
            more = f" and {len(used) - 1} more" if len(used) > 1 else ""
            what = f"{self.name} has the class {used[0]!r}{more}, which the training did not have"
            raise UserError(what, "name the classes alike, or leave these pictures out")
        labels = tuple(tuple(numbers[self.classes[n]] for n in own) for own in self.labels)
        return Labelled(self.pictures, labels, tuple(classes), several)

    def check_classes(self, each: int = 1) -> None:
        """Raise `UserError` for fewer than two classes, and for one with fewer than `each` pictures.

        Where a picture may have several labels, `each` is of all.
        """
        counts = Counter(n for labels in self.labels for n in labels)
        if len(counts) < 2:
            found = f"the one class {self.classes[next(iter(counts))]!r}" if counts else "no labels"
            raise UserError(f"{self.name} has {found}", "classification needs two classes or more")
        if self.several:
            if len(self) < each:
                raise UserError(f"{self.name} has one picture", f"give {each} or more, or others for validation")
            return
        number = min(range(len(self.classes)), key=lambda n: counts[n])
        if counts[number] < each:
            have = f"{counts[number]} picture{'s' if counts[number] != 1 else ''}"
            what = f"the class {self.classes[number]!r} of {self.name} has {have}"
            raise UserError(what, f"give {each} or more of each class, or others for validation")


def open_labelled(source: str | os.PathLike[str]) -> Labelled:
    """Open a folder with a folder per class, tar shards with .cls members, or a CSV file.

    Warns of files and members that cannot be used. Raises `UserError` naming the folder, or file and line, for what
    has no label or cannot be found.
    """
    path, skipped = Path(source), SkippedFiles()
    if path.suffix.lower() == ".csv":
        return _open_csv(path)
    pictures = open_pictures(source, skipped)
    skipped.warn(source)
    labels = [pictures.label(i) for i in range(len(pictures))]
    if any(label is None for label in labels):
        without = pictures.place(labels.index(None))
        what = f"{source} has pictures without labels, such as {without}"
        raise UserError(what, "give a folder per class, shards with .cls, or a CSV file of path,label")
    if isinstance(pictures, Folder):
        _check_folders(pictures)
    used = sorted({label for label in labels if label is not None})
    numbers = {label: number for number, label in enumerate(used)}
    classes = tuple(pictures.classes[label] for label in used)
    return Labelled(pictures, tuple((numbers[label],) for label in labels if label is not None), classes)


def _check_folders(pictures: Folder) -> None:
    folders = {entry.name for entry in os.scandir(pictures.root) if entry.is_dir() and not entry.name.startswith(".")}
    empty = sorted(folders - set(pictures.classes))
    if empty:
        raise UserError(f"the class folder {pictures.root / empty[0]} has no pictures", "add some, or remove it")


def _open_csv(path: Path) -> Labelled:
    columns = f"give path,label, or path,label{_BETWEEN}label for several"
    lines = list(read_lines(path, columns))
    several = any(_BETWEEN in line.values[0] for line in lines)
    names: list[tuple[str, ...]] = []
    for line in lines:
        if len(line.values) > 1:
            raise UserError(f"{line.place}: {1 + len(line.values)} columns, not two", columns)
        own = tuple(dict.fromkeys(label.strip() for label in line.values[0].split(_BETWEEN) if label.strip()))
        if not own and not several:
            raise UserError(f"{line.place}: there is no label", "give path,label")
        names.append(own)
    classes = tuple(sorted({name for own in names for name in own}))
    numbers = {name: number for number, name in enumerate(classes)}
    files = Files([line.picture for line in lines], str(path))
    return Labelled(files, tuple(tuple(numbers[name] for name in own) for own in names), classes, several)
