"""The models that every job is measured with."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.data import data_folder
from benchmarks.results import show_rows
from dinokit.inference.backbone import Backbone, load

RANDOM = "random weights"


def both_models(name: str = "dinokit_vitt16") -> dict[str, Backbone]:
    """The model called `name`, and the same network with random weights."""
    trained = load(name)
    return {name: trained, RANDOM: load(f"random:{trained.info.name}")}


def run_alone(measure: Callable[[Mapping[str, Backbone], Path], list[dict[str, Any]]]) -> None:
    """Measure one job and print its table."""
    show_rows(measure(both_models(), data_folder()))
