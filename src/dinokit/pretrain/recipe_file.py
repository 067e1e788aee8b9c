"""Recipes as text: presets and `recipe.toml` in, `--set NAME=VALUE` on top, the whole out again.

Every mistake is named by the setting's full name, with the nearest that exists or an example of what fits.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import typing
from collections.abc import Mapping
from typing import Any, Literal

from dinokit.checkpoints.assignments import parse_assignment
from dinokit.errors import UserError
from dinokit.pretrain.recipe import Recipe, Stage


def recipe_from_dict(values: Mapping[str, Any], base: Recipe | None = None) -> Recipe:
    """`base` with the (nested) fields that `values` names. Unknown fields and wrong types are `UserError`s."""
    changed: Recipe = _change(base or Recipe(), values, "")
    return changed


def read_toml(text: str, where: str) -> dict[str, Any]:
    """The settings of a preset or a run's `recipe.toml`."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        raise UserError(f"{where} is not TOML ({problem})", "mend the line it names") from None


def merge(settings: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings, those of `more` on top."""
    merged = dict(settings)
    for name, value in more.items():
        below = merged.get(name)
        merged[name] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def parse_assignments(assignments: typing.Iterable[str]) -> dict[str, Any]:
    """`["optimizer.lr=1e-4"]` -> `{"optimizer": {"lr": 0.0001}}`; values are TOML, or plain words."""
    values: dict[str, Any] = {}
    for text in assignments:
        name, value = parse_assignment(text, "--set", "optimizer.lr=1e-4")
        place = values
        *parents, last = name.split(".")
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise UserError(f"--set {text}: {parent} already has one value", "set its fields, or it whole")
        place[last] = value
    return values


def _change(settings: Any, values: Mapping[str, Any], path: str) -> Any:
    hints = typing.get_type_hints(type(settings))
    changes = {}
    for name, value in values.items():
        where = f"{path}{name}"
        if name not in hints:
            near = difflib.get_close_matches(name, hints, n=1, cutoff=0.5)
            hint = f"did you mean {path}{near[0]}?" if near else f"there are {', '.join(path + name for name in hints)}"
            raise UserError(f"there is no setting {where}", hint)
        changes[name] = _convert(value, hints[name], getattr(settings, name), where)
    return dataclasses.replace(settings, **changes)


def _convert(value: Any, kind: Any, current: Any, where: str) -> Any:
    """`value` as the field's type, or a `UserError` that names the field."""
    if dataclasses.is_dataclass(current):
        if not isinstance(value, Mapping):
            raise UserError(f"{where} = {value!r} is one value", f"set a field of it, such as {where}.NAME")
        return _change(current, value, f"{where}.")
    if where == "stages":
        return tuple(_stage(entry) for entry in (value if isinstance(value, list) else [value]))
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
    names = [field.name for field in dataclasses.fields(Stage)]
    if isinstance(entry, dict) and sorted(entry) == sorted(names) and all(type(v) is int for v in entry.values()):
        return Stage(**entry)
    raise UserError(f"stages: {entry!r} is no stage", "give [{steps = 100, global_size = 64, local_size = 32}]")


def recipe_to_toml(recipe: Recipe) -> str:
    """Every field of the recipe, as TOML that `read_toml` and `recipe_from_dict` read back."""
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
