"""From what a person typed to a run: the recipe settled, the pictures opened, the starting weights loaded."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import torch

from dinokit.checkpoints.load import load_model
from dinokit.checkpoints.model import LoadedModel
from dinokit.errors import UserError
from dinokit.inference.precision import choose_device
from dinokit.pretrain.budget import Speed, derive_recipe, parse_duration, time_steps
from dinokit.pretrain.checkpointing import list_checkpoints, make_folder
from dinokit.pretrain.expect import expected_knn
from dinokit.pretrain.loop import Pretraining, Status
from dinokit.pretrain.pictures import TrainingPictures, open_training_pictures
from dinokit.pretrain.recipe import Recipe
from dinokit.pretrain.recipe_file import merge, parse_assignments, read_toml, recipe_from_dict


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
    continued = (order.out / "recipe.toml").is_file() and bool(list_checkpoints(order.out))
    seconds = None if order.budget is None or continued else parse_duration(order.budget)
    chosen = _chosen_settings(order, continued)
    recipe = recipe_from_dict(chosen)
    source = None if continued else order.init
    # a wrong --init is said before pictures are decoded; a continued run is the network that it was
    start = load_model(order.out) if continued else _start_model(source, recipe)
    make_folder(order.out)
    pictures = open_training_pictures(order.data, recipe.run, order.weights, listener.decoded)
    listener.say(f"{len(pictures)} pictures from {len(pictures.parts)} data sets")
    if len(pictures.skipped):
        listener.say(pictures.skipped.summary())
    if seconds is not None:
        listener.say("measuring how fast this machine trains")
        if source is not None:  # it has learnt enough for the patch losses
            chosen = merge({"coding_rate": {"patch_after": 0}}, chosen)
        speed = partial(_measure_speed, source, pictures, device)
        recipe = derive_recipe(chosen, len(pictures), seconds, device, speed)
        start = _start_model(source, recipe)
    recipe.check_length()
    run = Pretraining(recipe, pictures, order.out, start, source, device)
    for line in describe(recipe, run, order, seconds):
        listener.say(line)
    return run


def _chosen_settings(order: Order, continued: bool) -> dict[str, Any]:
    """What a person chose: the stored recipe of a continued run, or a preset and the seed; then the assignments."""
    if continued:
        settings = read_toml((order.out / "recipe.toml").read_text(encoding="utf-8"), str(order.out / "recipe.toml"))
    else:
        settings = read_toml(read_preset(order.preset), order.preset) if order.preset is not None else {}
        if order.seed is not None:
            settings = merge(settings, {"run": {"seed": order.seed}})
    return merge(settings, parse_assignments(order.assignments))


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


def _start_model(source: str | None, recipe: Recipe) -> LoadedModel:
    if source is not None:
        return load_model(source)
    model = load_model(f"random:{recipe.network}:{recipe.run.seed}", layer_scale=recipe.layer_scale)
    return replace(model, info=replace(model.info, name=recipe.network))


def _measure_speed(source: str | None, pictures: TrainingPictures, device: torch.device, recipe: Recipe) -> Speed:
    """How fast a recipe trains and is probed, by running a few steps of it on the pictures themselves."""
    recipe = replace(recipe, optimizer=replace(recipe.optimizer, schedule="constant", cooldown=0))
    with TemporaryDirectory() as folder:
        run = Pretraining(recipe, pictures, Path(folder), _start_model(source, recipe), source, device)

        def step() -> None:
            run.train_step()
            run.step += 1

        training = time_steps(step, recipe.run.batch, device)
        probe = 0.0
        if run.probe is not None:
            sample, started = run.probe.bank[:128], time.perf_counter()
            run.class_tokens(sample, recipe.crops.global_size)
            pictures_probed = len(run.probe.bank) + len(run.probe.queries)
            probe = (time.perf_counter() - started) * pictures_probed / len(sample)
        return Speed(training, probe)


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
        lines.append(f"going on from step {run.step} with the settings of {order.out / 'recipe.toml'}")
        if run.other_pictures:
            lines.append("the pictures or weights are not those that the run was started with")
    elif seconds is not None and order.init is None:
        lines.append(expected_knn(recipe))
    return lines


def _origin(run: Pretraining, order: Order) -> str:
    if run.step:
        return f"from {order.out}"
    if order.init is None:
        return "from random weights"
    return f"from {order.init} with {' and '.join(run.heads_loaded) or 'new heads'}"


def _crops(recipe: Recipe) -> str:
    early = [f"{stage.global_size}/{stage.local_size} px for {stage.steps} steps" for stage in recipe.stages]
    return " then ".join([*early, f"{recipe.crops.global_size}/{recipe.crops.local_size} px"])
