"""The models that every job is measured with."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.data import data_folder
from benchmarks.results import show
from dinokit.inference.backbone import Backbone, load

RANDOM = "random weights"


def both_models(name: str = "dinokit_vitt16") -> dict[str, Backbone]:
    """The model called `name`, and the same network with random weights."""
    trained = load(name)
    return {name: trained, RANDOM: load(f"random:{trained.info.name}")}


def run_alone(measure: Callable[[Mapping[str, Backbone], Path], list[dict[str, Any]]]) -> None:
    """Measure one job and print its table."""
    print_rows(measure(both_models(), data_folder()))


def print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """A table for each data set of a job: as narrow as can be, a column for each figure or for each thing measured."""
    for name in dict.fromkeys(row["on"] for row in rows):
        here = [row for row in rows if row["on"] == name]
        figures = [key for key in dict.fromkeys(key for row in here for key in row) if key not in ("job", "on", "what")]
        lines = [["", *figures], *([row["what"], *(row.get(figure, "") for figure in figures)] for row in here)]
        header, *body = lines if len(figures) < len(here) else map(list, zip(*lines, strict=True))
        show(f"{here[0]['job']} on {name}", header, body)
