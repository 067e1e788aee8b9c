"""From what a person typed to a run: the recipe settled, the pictures opened, the starting weights loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import torch

from dinokit.checkpoints.load import load_model
from dinokit.checkpoints.model import LoadedModel
from dinokit.data.listing import SkippedFiles
from dinokit.data.mixture import Mixture
from dinokit.data.store import SquareStore
from dinokit.errors import UserError
from dinokit.inference.precision import choose_device
from dinokit.pretrain.budget import derive_recipe, noise_pictures, parse_duration, time_steps
from dinokit.pretrain.checkpointing import list_checkpoints
from dinokit.pretrain.expect import expected_knn
from dinokit.pretrain.loop import Pretraining, Status
from dinokit.pretrain.pictures import TrainingPictures, open_training_pictures
from dinokit.pretrain.recipe import Recipe
from dinokit.pretrain.recipe_file import parse_assignments, recipe_from_dict, recipe_from_toml


@dataclass(frozen=True)
class Order:
    """What a person asked for; see `dinokit pretrain --help`."""

    data: Sequence[str]
    out: Path
    preset: str | None = None
    budget: str | None = None
    weights: Sequence[float] | None = None
    init: str | None = None
    assignments: Sequence[str] = ()
    device: str = "auto"
    seed: int | None = None


class Listener(Protocol):
    """Who is told how it goes."""

    def say(self, text: str) -> None: ...
    def decoded(self, done: int, total: int) -> None: ...
    def trained(self, status: Status) -> None: ...


def prepare_run(order: Order, listener: Listener) -> Pretraining:
    """A run that is ready to go, new or continued. Raises `UserError` for anything wrong before training starts."""
    device = choose_device(order.device)
    if order.out.exists() and not order.out.is_dir():
        raise UserError(f"{order.out} is a file", "give a folder for the run")
    continued = (order.out / "recipe.toml").is_file() and bool(list_checkpoints(order.out))
    base = _stored_recipe(order) if continued else _chosen_recipe(order)
    seconds = None if order.budget is None else parse_duration(order.budget)
    _start_model(order, base)  # a wrong --init is said before pictures are decoded
    pictures = open_training_pictures(order.data, base.run, order.weights, listener.decoded)
    listener.say(f"{len(pictures)} pictures from {len(pictures.parts)} data sets")
    if len(pictures.skipped):
        listener.say(pictures.skipped.summary())
    if seconds is not None and not continued:
        listener.say("measuring how fast this machine trains")
        chosen = parse_assignments(order.assignments)
        recipe = derive_recipe(
            base,
            len(pictures),
            seconds,
            device,
            measure=lambda recipe: _measure_speed(order, recipe, device),
            settle=lambda recipe: recipe_from_dict(chosen, recipe),
        )
    else:
        recipe = base
    run = Pretraining(recipe, pictures, order.out, _start_model(order, recipe), order.init, device)
    for line in describe(recipe, run, order, seconds):
        listener.say(line)
    return run


def _stored_recipe(order: Order) -> Recipe:
    text = (order.out / "recipe.toml").read_text(encoding="utf-8")
    stored = recipe_from_toml(text, str(order.out / "recipe.toml"))
    return recipe_from_dict(parse_assignments(order.assignments), stored)


def _chosen_recipe(order: Order) -> Recipe:
    recipe = Recipe()
    if order.preset is not None:
        recipe = recipe_from_toml(read_preset(order.preset), order.preset)
    recipe = recipe_from_dict(parse_assignments(order.assignments), recipe)
    return recipe if order.seed is None else replace(recipe, run=replace(recipe.run, seed=order.seed))


def read_preset(name: str) -> str:
    """The text of a preset of the package, or of a TOML file."""
    path = Path(name)
    if path.suffix == ".toml":
        if not path.is_file():
            raise UserError(f"there is no preset {name}", "check the path")
        return path.read_text(encoding="utf-8")
    folder = resources.files("dinokit.pretrain") / "presets"
    known = sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))
    if name not in known:
        raise UserError(f"there is no preset {name!r}", f"known are {', '.join(known)}, or give a .toml file")
    return (folder / f"{name}.toml").read_text(encoding="utf-8")


def _start_model(order: Order, recipe: Recipe) -> LoadedModel:
    if order.init is not None:
        return load_model(order.init)
    model = load_model(f"random:{recipe.network}:{recipe.run.seed}", layer_scale=recipe.layer_scale)
    return replace(model, info=replace(model.info, name=recipe.network))


def _measure_speed(order: Order, recipe: Recipe, device: torch.device) -> float:
    """Pictures per second of a recipe, by running a few steps of it on noise."""
    recipe = replace(recipe, run=replace(recipe.run, probe_every=0))
    count = recipe.run.batch
    noise = noise_pictures(count, recipe.run.picture_side)
    store = SquareStore(noise, torch.ones(count), torch.full((count,), -1), tuple(map(str, range(count))))
    pictures = TrainingPictures((store,), Mixture([store]), SkippedFiles())
    with TemporaryDirectory() as folder:
        run = Pretraining(recipe, pictures, Path(folder), _start_model(order, recipe), None, device)
        return time_steps(run.train_step, count, device)


def describe(recipe: Recipe, run: Pretraining, order: Order, seconds: float | None) -> list[str]:
    """What was derived or chosen, in lines for people."""
    device = f"{run.device.type} in {str(run.dtype).removeprefix('torch.')}"
    length = f"{recipe.run.steps} steps" if recipe.run.steps else "until stopped (Ctrl-C saves)"
    lines = [
        f"network {run.info.name} {_origin(run, order)}, on {device}; objective {recipe.objective}",
        f"batch {recipe.run.batch}, {length}; crops {_crops(recipe)}, {recipe.crops.local_number} local ones",
        f"learning rate {recipe.optimizer.lr:g} after {recipe.optimizer.warmup} steps, "
        f"cool-down {recipe.optimizer.cooldown} steps; teacher momentum {recipe.teacher.momentum:.4f}",
    ]
    if run.step:
        lines.append(f"going on from step {run.step}")
    elif seconds is not None:
        lines.append(expected_knn(recipe.run.steps * recipe.run.batch))
    return lines


def _origin(run: Pretraining, order: Order) -> str:
    if order.init is None:
        return "from random weights"
    return f"from {order.init} with {' and '.join(run.heads_loaded) or 'new heads'}"


def _crops(recipe: Recipe) -> str:
    early = [f"{stage.global_size}/{stage.local_size} px for {stage.steps} steps" for stage in recipe.stages]
    return " then ".join([*early, f"{recipe.crops.global_size}/{recipe.crops.local_size} px"])
