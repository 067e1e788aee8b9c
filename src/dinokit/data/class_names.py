"""The names of classes in a text file, such as `classes.txt` beside shards or masks."""

from __future__ import annotations

from pathlib import Path

from dinokit.errors import UserError


def read_class_names(file: Path) -> tuple[str, ...]:
    """The class of each line, in its last tab-separated column; empty lines do not count. `UserError` if unreadable."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{file} cannot be read as UTF-8 text", "give a text file with a class in each line") from None
    return tuple(line.split("\t")[-1].strip() for line in lines if line.strip())
