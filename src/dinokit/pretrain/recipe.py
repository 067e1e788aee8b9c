"""The whole configuration of a pretraining run: frozen, checked once, written beside the run as `recipe.toml`.

Each part is a dataclass whose defaults work. A preset is a TOML file with the fields it changes; `--set
optimizer.lr=1e-4` changes one more.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dinokit.backbones.catalog import spec_of
from dinokit.errors import UserError
from dinokit.pretrain.crops import CropSettings
from dinokit.pretrain.objectives import (
    CodingRateObjective,
    CodingRateSettings,
    Dinov3Objective,
    Dinov3Settings,
    Objective,
)


@dataclass(frozen=True)
class MaskSettings:
    """Which patches of the student's global crops are hidden."""

    probability: float = 0.5
    """Share of the global crops that are masked at all."""
    ratio: tuple[float, float] = (0.1, 0.5)
    """Least and greatest share of hidden patches in a masked crop."""


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW and its schedule."""

    lr: float = 1e-3
    """Learning rate after the warm-up."""
    warmup: int = 500
    """Steps from 0 to `lr`."""
    cooldown: int = 0
    """Steps at the end of the run over which the learning rate falls to 0."""
    weight_decay: float = 0.04
    beta1: float = 0.9
    beta2: float = 0.99
    layer_decay: float = 1.0
    """Factor on the learning rate from each block to the one before it (published: 0.98)."""
    patch_embed_multiplier: float = 1.0
    """Factor on the patch embedding's learning rate (published: 0.2)."""
    clip: float = 3.0
    """Greatest gradient norm of the backbone and of each head."""
    freeze_last_layer: int = 0
    """Steps in which the prototypes do not move."""


@dataclass(frozen=True)
class TeacherSettings:
    """The moving average."""

    momentum: float = 0.994
    momentum_end: float = 0.994
    """Reached by a half cosine at the end of the run, if the run has an end."""


@dataclass(frozen=True)
class RunSettings:
    """How long, how large, how often."""

    batch: int = 64
    """Pictures a step."""
    steps: int = 0
    """Length of the run; 0 goes on until it is stopped."""
    seed: int = 0
    picture_side: int = 160
    """Side in pixels at which pictures wait in memory; crops are cut out of these."""
    save_every: int = 1000
    probe_every: int = 1000
    """Steps between kNN probes, where the data has labels; 0 for none."""
    log_every: int = 20
    memory_limit: float = 8.0
    """GiB of decoded pictures kept in memory; larger sets are decoded as they come."""


@dataclass(frozen=True)
class Stage:
    """A part of the run with crops of its own size: small crops first learn more in the same time."""

    steps: int
    global_size: int
    local_size: int


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run, except the pictures."""

    network: str = "dinokit_vitt16"
    drop_path: float = 0.0
    layer_scale: float = 0.1
    """Initial factor of the residual branches (published: 1e-5, for far longer runs)."""
    objective: Literal["dinov3", "coding-rate"] = "coding-rate"
    dinov3: Dinov3Settings = field(default_factory=Dinov3Settings)
    coding_rate: CodingRateSettings = field(default_factory=CodingRateSettings)
    crops: CropSettings = field(default_factory=lambda: CropSettings(64, 32, 4))
    stages: tuple[Stage, ...] = ()
    """Crop sizes from the start on, one stage after another; `crops` has the sizes after the last."""
    masks: MaskSettings = field(default_factory=MaskSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    teacher: TeacherSettings = field(default_factory=TeacherSettings)
    run: RunSettings = field(default_factory=RunSettings)

    def __post_init__(self) -> None:
        patch = spec_of(self.network).patch_size
        sizes = [(self.crops.global_size, self.crops.local_size)]
        for size in {side for pair in sizes + [(s.global_size, s.local_size) for s in self.stages] for side in pair}:
            if size % patch:
                raise UserError(f"a crop of {size} px does not fit patches of {patch} px", "give multiples of them")
        bounds = {
            "run.batch": (self.run.batch, 2),
            "run.steps": (self.run.steps, 0),
            "run.picture_side": (self.run.picture_side, 16),
            "run.save_every": (self.run.save_every, 1),
            "run.log_every": (self.run.log_every, 1),
            "run.probe_every": (self.run.probe_every, 0),
            "optimizer.warmup": (self.optimizer.warmup, 0),
            "optimizer.cooldown": (self.optimizer.cooldown, 0),
        }
        for name, (value, least) in bounds.items():
            if value < least:
                raise UserError(f"{name} = {value} is too small", f"give at least {least}")
        if self.optimizer.cooldown and not self.run.steps:
            raise UserError("optimizer.cooldown needs an end of the run", "set run.steps too")
        for name, share in (("teacher.momentum", self.teacher.momentum), ("drop_path", self.drop_path)):
            if not 0 <= share < 1:
                raise UserError(f"{name} = {share} is out of bounds", "give 0 or more and less than 1")
        if not (self.optimizer.lr > 0 and self.optimizer.clip > 0):
            raise UserError("optimizer.lr and optimizer.clip must be positive", "try 1e-3 and 3.0")

    def build_objective(self) -> Objective:
        if self.objective == "dinov3":
            return Dinov3Objective(self.dinov3)
        return CodingRateObjective(self.coding_rate)

    def crops_at(self, step: int) -> CropSettings:
        """The crop settings at `step`, by the stages."""
        end = 0
        for stage in self.stages:
            end += stage.steps
            if step < end:
                return dataclasses.replace(self.crops, global_size=stage.global_size, local_size=stage.local_size)
        return self.crops


def recipe_from_dict(values: Mapping[str, Any], base: Recipe | None = None) -> Recipe:
    """`base` with the (nested) fields that `values` names. Unknown fields and wrong types are `UserError`s."""
    changed: Recipe = _change(base or Recipe(), values, "")
    return changed


def recipe_from_toml(text: str, where: str, base: Recipe | None = None) -> Recipe:
    """A preset or a run's `recipe.toml`."""
    try:
        return recipe_from_dict(tomllib.loads(text), base)
    except tomllib.TOMLDecodeError as problem:
        raise UserError(f"{where} is not TOML ({problem})", "mend the line it names") from None


def parse_assignments(assignments: typing.Iterable[str]) -> dict[str, Any]:
    """`["optimizer.lr=1e-4"]` -> `{"optimizer": {"lr": 0.0001}}`; values are TOML, or plain words."""
    values: dict[str, Any] = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--set {text} has no value", "write --set optimizer.lr=1e-4")
        place = values
        *parents, last = name.strip().split(".")
        for parent in parents:
            place = place.setdefault(parent, {})
        try:
            place[last] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            place[last] = value.strip()
    return values


def _change(settings: Any, values: Mapping[str, Any], path: str) -> Any:
    hints = typing.get_type_hints(type(settings))
    changes = {}
    for name, value in values.items():
        where = f"{path}{name}"
        if name not in hints:
            near = difflib.get_close_matches(name, hints, n=1, cutoff=0.5)
            raise UserError(f"there is no setting {where}", f"did you mean {path}{near[0]}?" if near else "see presets")
        changes[name] = _convert(value, hints[name], getattr(settings, name), where)
    return dataclasses.replace(settings, **changes)


def _convert(value: Any, kind: Any, current: Any, where: str) -> Any:
    """`value` as the field's type, or a `UserError` that names the field."""
    if dataclasses.is_dataclass(current):
        if not isinstance(value, Mapping):
            raise UserError(f"{where} = {value!r} is one value", f"set a field of it, such as {where}.NAME")
        return _change(current, value, f"{where}.")
    if where == "stages":
        return tuple(_stage(entry) for entry in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if typing.get_origin(kind) is tuple:
        if isinstance(value, list) and len(value) == len(current) and all(isinstance(v, (int, float)) for v in value):
            return tuple(float(v) for v in value)
    elif typing.get_origin(kind) is Literal:
        if value in typing.get_args(kind):
            return value
        raise UserError(f"{where} = {value!r} is unknown", f"choose {' or '.join(typing.get_args(kind))}")
    elif isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise UserError(f"{where} = {value!r} has the wrong type", f"give something like {current!r}")


def _stage(entry: Any) -> Stage:
    try:
        return Stage(**entry)
    except TypeError:
        raise UserError(f"stages: {entry!r} is no stage", "give steps, global_size and local_size") from None


def recipe_to_toml(recipe: Recipe) -> str:
    """Every field of the recipe, as TOML that `recipe_from_toml` reads back."""
    lines: list[str] = []
    tables: list[str] = []
    for item in dataclasses.fields(recipe):
        value = getattr(recipe, item.name)
        if item.name == "stages":
            rows = ", ".join(_toml(dataclasses.asdict(stage)) for stage in value)
            lines.append(f"stages = [{rows}]")
        elif dataclasses.is_dataclass(value):
            fields = [f"{inner.name} = {_toml(getattr(value, inner.name))}" for inner in dataclasses.fields(value)]
            tables.append("\n".join([f"\n[{item.name}]", *fields]))
        else:
            lines.append(f"{item.name} = {_toml(value)}")
    return "\n".join([*lines, *tables]) + "\n"


def _toml(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"'
        case tuple() | list():
            return f"[{', '.join(_toml(part) for part in value)}]"
        case dict():
            return "{ " + ", ".join(f"{key} = {_toml(part)}" for key, part in value.items()) + " }"
    return repr(value)
