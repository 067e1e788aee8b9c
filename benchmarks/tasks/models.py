"""The models that every job is measured with."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.data import data_folder
from benchmarks.results import show_rows
from dinokit.backbones.catalog import NETWORKS
from dinokit.inference.backbone import Backbone, load

RANDOM = "random weights"


def both_models(name: str = "dinokit_vitt16") -> dict[str, Backbone]:
    """The model called `name`, and its network with random weights (if the catalogue has it) read at the same block."""
    trained = load(name)
    network, block = trained.info.name, trained.info.map_layer
    if network not in NETWORKS:
        print(f"the catalogue does not know the network {network}: no rows of random weights", flush=True)
        return {name: trained}
    return {name: trained, RANDOM: load(f"random:{network}", map_layer=block)}


def run_alone(measure: Callable[[Mapping[str, Backbone], Path], list[dict[str, Any]]]) -> None:
    """Measure one job and print its table."""
    show_rows(measure(both_models(), data_folder()))
