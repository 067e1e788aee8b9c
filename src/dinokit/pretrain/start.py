"""From what a person typed to a run: the recipe settled, the pictures opened, the starting weights loaded."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import torch

from dinokit.backbones.catalog import NETWORKS, spec_of
from dinokit.backbones.network import build
from dinokit.checkpoints.folders import make_folder
from dinokit.checkpoints.load import load_model
from dinokit.checkpoints.model import LoadedModel
from dinokit.checkpoints.save import write_atomically
from dinokit.errors import UserError
from dinokit.inference.precision import choose_device
from dinokit.pretrain.budget import Speed, check_chosen, derive_recipe, parse_duration, time_steps
from dinokit.pretrain.checkpointing import list_checkpoints, read_info
from dinokit.pretrain.expect import expected_knn
from dinokit.pretrain.loop import Pretraining, trainable
from dinokit.pretrain.pictures import PROBE_LEAST, TrainingPictures, open_training_pictures
from dinokit.pretrain.recipe import Recipe
from dinokit.pretrain.recipe_file import merge, parse_assignments, read_toml, recipe_from_dict

ORDER = "order.json"


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

    def origin(self) -> dict[str, str | int]:
        """What a run is started with once, and cannot take up later: kept in `order.json`."""
        given = {"preset": self.preset, "budget": self.budget, "init": self.init, "seed": self.seed}
        return {name: value for name, value in given.items() if value is not None}


class Listener(Protocol):
    """Who is told how it goes."""

    def say(self, text: str) -> None: ...
    def decoded(self, done: int, total: int) -> None: ...


def prepare_run(order: Order, listener: Listener) -> Pretraining:
    """A run that is ready to go, new or continued. Raises `UserError` for anything wrong before training starts."""
    device = choose_device(order.device)
    make_folder(order.out)
    continued = bool(list_checkpoints(order.out))
    _check_folder(order, continued)
    seconds = None if order.budget is None or continued else parse_duration(order.budget)
    chosen = _chosen_settings(order, continued)
    recipe = recipe_from_dict(chosen)
    _check_objective(order, recipe)
    if seconds is not None:
        check_chosen(chosen)
    source = None if continued else order.init
    # a wrong --init is said before pictures are decoded; a continued run is the network that it was
    start = _continued_model(order.out) if continued else _start_model(source, recipe)
    _check_start(start, recipe, order)
    pictures = open_training_pictures(order.data, recipe.run, order.weights, listener.decoded)
    _describe_pictures(pictures, recipe, listener)
    if seconds is not None:
        recipe = _derive(order, chosen, seconds, pictures, device, listener)
        start = _start_model(source, recipe)
    if start.info.name in NETWORKS:
        recipe = replace(recipe, network=start.info.name)
    recipe.check_length()
    run = Pretraining(recipe, pictures, order.out, start, source, device)
    if not continued:
        write_atomically(order.out / ORDER, json.dumps(order.origin()).encode())
    for line in describe(recipe, run, order, seconds):
        listener.say(line)
    return run


def _check_folder(order: Order, continued: bool) -> None:
    """Nothing that a person made is overwritten, and nothing asked for is left out without a word."""
    if not continued:
        if (order.out / "model").exists():
            hint = f"start from it: --init {order.out} and another --out"
            raise UserError(f"{order.out} has a model but no checkpoint to go on from", hint)
        if (order.out / "log.jsonl").exists() and not (order.out / ORDER).exists():
            raise UserError(f"{order.out} has a log.jsonl that is not of a run", "give another --out")
        return
    try:
        origin = json.loads((order.out / ORDER).read_text())
    except (OSError, ValueError, RecursionError):
        return
    for name, value in order.origin().items():
        started = origin.get(name) if isinstance(origin, Mapping) else None
        if value != started:
            was = f"with --{name} {started}" if started is not None else f"without --{name}"
            hint = f"leave out --{name} to go on with that run, or give another --out"
            raise UserError(f"{order.out} was started {was}, not with {value}", hint)


def _derive(
    order: Order,
    chosen: Mapping[str, Any],
    seconds: float,
    pictures: TrainingPictures,
    device: torch.device,
    listener: Listener,
) -> Recipe:
    listener.say("measuring how fast this machine trains")
    if order.init is not None:  # it has learnt enough for the patch losses
        chosen = merge({"coding_rate": {"patch_after": 0}}, chosen)
    speed = partial(_measure_speed, order.init, pictures, device)
    return derive_recipe(chosen, len(pictures), seconds, device, speed)


def _chosen_settings(order: Order, continued: bool) -> dict[str, Any]:
    """What a person chose: the stored recipe of a continued run, or a preset and the seed; then the assignments."""
    if continued:
        settings = _stored_settings(order.out / "recipe.toml")
    else:
        settings = read_toml(read_preset(order.preset), order.preset) if order.preset is not None else {}
        if order.seed is not None:
            settings = merge(settings, {"run": {"seed": order.seed}})
    return merge(settings, parse_assignments(order.assignments))


def _stored_settings(path: Path) -> dict[str, Any]:
    try:
        return read_toml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{path} cannot be read", "the run cannot go on without it: give another --out") from None


def read_preset(name: str) -> str:
    """The text of a preset of the package, or of a TOML file."""
    path = Path(name)
    if path.suffix == ".toml":
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise UserError(f"the preset {name} cannot be read", "give the path of a text file of settings") from None
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


def _continued_model(run: Path) -> LoadedModel:
    """The network of the latest checkpoint, which gives its weights later."""
    info = read_info(run)
    return LoadedModel(build(info.spec), info)


def _check_start(start: LoadedModel, recipe: Recipe, order: Order) -> None:
    """Raises `UserError` where the network does not suit the recipe or its pictures."""
    spec, named = trainable(start).spec, parse_assignments(order.assignments)
    if spec.in_channels != 3:
        raise UserError(f"{order.init} reads {spec.in_channels} channels", "start from a model of three")
    if order.init is not None and "network" in named and spec != spec_of(recipe.network):
        raise UserError(f"{order.init} is no {recipe.network}", "leave out --set network: --init decides it")
    if order.init is not None and "layer_scale" in named:
        raise UserError("--init has its layer scales already", "leave out --set layer_scale")
    for size in recipe.crop_sizes():
        if size % spec.patch_size:
            hint = "set crops.global_size and crops.local_size to multiples"
            raise UserError(f"a crop of {size} px does not fit patches of {spec.patch_size} px", hint)


def _check_objective(order: Order, recipe: Recipe) -> None:
    """Raises `UserError` where a setting is of the objective that the run does not have."""
    other = {"coding-rate": "dinov3", "dinov3": "coding_rate"}[recipe.objective]
    for name in parse_assignments(order.assignments).get(other, {}):
        hint = f"leave it out, or set objective={other.replace('_', '-')}"
        raise UserError(f"{other}.{name} does nothing in a run with the objective {recipe.objective}", hint)


def _describe_pictures(pictures: TrainingPictures, recipe: Recipe, listener: Listener) -> None:
    sets = len(pictures.parts)
    listener.say(f"{_count(len(pictures), 'picture')} from {_count(sets, 'data set')}")
    if len(pictures.skipped):
        listener.say(pictures.skipped.summary())
    if len(pictures) < recipe.run.batch:
        listener.say(f"fewer pictures than a batch of {recipe.run.batch}: each step sees some of them several times")
    labelled = max(int((part.labels >= 0).sum()) for part in pictures.parts)
    if 0 < labelled < PROBE_LEAST:
        listener.say(f"no kNN probe: {_count(labelled, 'labelled picture')}, it needs {PROBE_LEAST}")


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


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
            run.class_tokens(run.probe.squares(sample), recipe.crops.global_size)
            probe = (time.perf_counter() - started) * len(run.probe) / len(sample)
        return Speed(training, probe)


def describe(recipe: Recipe, run: Pretraining, order: Order, seconds: float | None) -> list[str]:
    """What was derived or chosen, in lines for people."""
    device = f"{run.device.type} in {str(run.dtype).removeprefix('torch.')}"
    length = f"{recipe.run.steps} steps" if recipe.run.steps else "until stopped (Ctrl-C saves)"
    lines = [
        f"network {run.info.name} {_origin(run, order)}, on {device}; objective {recipe.objective}",
        f"batch {recipe.run.batch}, {length}; crops {_crops(recipe)}, {recipe.crops.local_number} local ones",
        f"learning rate {recipe.peak_lr:g} after {recipe.optimizer.warmup} steps, "
        f"cool-down {recipe.optimizer.cooldown} steps; teacher momentum {_momentum(recipe)}",
        _describe_objective(recipe),
    ]
    if recipe.crops.global_size > recipe.run.picture_side:
        lines.append(f"crops are larger than the {recipe.run.picture_side} px of run.picture_side: raise it")
    if run.finished:
        lines.append(f"the run ended at step {run.step}: --set run.steps={2 * run.step} would train on")
    elif run.step:
        lines.append(f"going on from step {run.step} with the settings of {order.out / 'recipe.toml'}")
        if run.other_pictures:
            lines.append("the pictures or weights are not those that the run was started with")
    elif seconds is not None and order.init is None:
        lines.append(expected_knn(recipe))
    if 0 < recipe.run.steps <= recipe.optimizer.warmup:
        lines.append("the run ends within its warm-up: lower optimizer.warmup, or raise run.steps")
    return lines


def _describe_objective(recipe: Recipe) -> str:
    """What pictures are compared by, beside their class tokens, and since when."""
    if recipe.objective == "dinov3":
        s = recipe.dinov3
        return f"{s.prototypes} prototypes, {s.patch_prototypes} of patches"
    settings = recipe.coding_rate
    if not settings.patch_weight and not settings.match_weight:
        return "no patch losses"
    return f"patch losses from step {settings.patch_after}" if settings.patch_after else "patch losses from the start"


def _momentum(recipe: Recipe) -> str:
    start, end = recipe.teacher.momentum, recipe.teacher.momentum_end
    return f"{start:.4f}" if start == end or not recipe.run.steps else f"{start:.4f} to {end:.4f}"


def _origin(run: Pretraining, order: Order) -> str:
    if run.step:
        return f"from {order.out}"
    if order.init is None:
        return "from random weights"
    return f"from {order.init} with {' and '.join(run.heads_loaded) or 'new heads'}"


def _crops(recipe: Recipe) -> str:
    early = [f"{stage.global_size}/{stage.local_size} px for {stage.steps} steps" for stage in recipe.stages]
    return " then ".join([*early, f"{recipe.crops.global_size}/{recipe.crops.local_size} px"])
