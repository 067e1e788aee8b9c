"""A CSV file with a line for each picture: its path, relative to the file, and what belongs to it."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dinokit.errors import UserError


@dataclass(frozen=True)
class Line:
    """A line of the file."""

    place: str
    """File and line, for messages."""
    picture: Path
    values: tuple[str, ...]
    """What the other columns say, one at least."""


def read_lines(path: Path, columns: str) -> Iterator[Line]:
    """The lines of a file of two or more columns; a first line that names them may be there or not.

    It names them where its first column has no ending such as .jpg. columns: what to give, for messages. Raises
    `UserError` naming the line for one that has a single column, and for a picture that is not there.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            for row in reader:
                if not row:
                    continue
                place, picture = f"{path}, line {reader.line_num}", path.parent / row[0]
                if reader.line_num == 1 and not picture.suffix and not picture.is_file():  # names of the columns
                    continue
                if len(row) < 2:
                    raise UserError(f"{place}: 1 column, not two", columns)
                if not picture.is_file():
                    raise UserError(f"{place}: {picture} is not found", "paths start at the CSV file")
                yield Line(place, picture, tuple(row[1:]))
    except (OSError, ValueError, csv.Error) as problem:
        raise UserError(f"{path} cannot be read ({problem})", "check that it is a CSV file in UTF-8") from None
