"""Tables on the terminal and figures in files."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe

RESULTS = Path(__file__).resolve().parent / "results"


def show(title: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table; numbers to the right."""
    table = Table(title=title)
    for column, name in enumerate(header):
        numeric = bool(rows) and isinstance(rows[0][column], (int, float))
        table.add_column(name, justify="right" if numeric else "left")
    for row in rows:
        table.add_row(*map(_text, row))
    Console().print(table)


def _text(cell: Any) -> str:
    """A cell of a table; what was not found is a dash."""
    return "–" if cell is None else f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def show_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """A table for each data set of a job: as narrow as can be, a column for each figure or for each thing measured."""
    for name in dict.fromkeys(row["on"] for row in rows):
        here = [row for row in rows if row["on"] == name]
        figures = [key for key in dict.fromkeys(key for row in here for key in row) if key not in ("job", "on", "what")]
        lines = [["", *figures], *([row["what"], *(row.get(figure, "") for figure in figures)] for row in here)]
        header, *body = lines if len(figures) < len(here) else map(list, zip(*lines, strict=True))
        show(f"{here[0]['job']} on {name}", header, body)


def write(name: str, figures: dict[str, Any]) -> Path:
    """Write benchmarks/results/NAME.json: the figures, and the machine that they were measured on."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": describe(), **figures}, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return path
