"""What is known about a model beside its weights, and how `config.json` keeps it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from dinokit.backbones.convnext import ConvNeXtSpec
from dinokit.backbones.network import Network, Spec
from dinokit.backbones.rope import RopeSpec
from dinokit.backbones.vit import ViTSpec
from dinokit.checkpoints.names import printable
from dinokit.checkpoints.spec_check import check_spec
from dinokit.errors import UserError
from dinokit.images.normalize import IMAGENET, Statistics

FORMAT = "dinokit-1"
MAX_SIDE = 16384
"""The largest picture side, in pixels, that a model may ask for by itself."""
_KINDS: dict[str, type[Spec]] = {"vit": ViTSpec, "convnext": ConvNeXtSpec}
_ABOUT = ("mean", "std", "image_size", "map_layer")


@dataclass(frozen=True)
class ModelInfo:
    """A model's name, shape and picture statistics, and where its weights come from."""

    name: str
    spec: Spec
    statistics: Statistics = IMAGENET
    image_size: int = 224
    """Short side in pixels at which the model is read unless a size is given."""
    map_layer: int = -1
    """The block whose patches make the sharpest maps, from 0 or negative from the end: what is shown to people."""
    weights_sha256: str = ""
    assumptions: tuple[str, ...] = ()
    """What the files could not tell and was assumed."""
    source: str = field(default="", compare=False)
    """What it was loaded by: a name, an address, or the absolute path of a file or folder."""

    def to_config(self) -> dict[str, Any]:
        """The content of `config.json`."""
        return {
            "format": FORMAT,
            "name": self.name,
            "kind": next(kind for kind, made in _KINDS.items() if isinstance(self.spec, made)),
            "network": asdict(self.spec),
            "mean": list(self.statistics.mean),
            "std": list(self.statistics.std),
            "image_size": self.image_size,
            "map_layer": self.map_layer,
            "weights_sha256": self.weights_sha256,
        }


@dataclass(frozen=True)
class LoadedModel:
    """A network with weights as they are stored, in their own number format, and what is known about it.

    Weights of a file are memory-mapped: they are read when they are used, and stay those of the file. `network.float()`
    makes a network to compute or train with where they are stored narrower.
    """

    network: Network
    info: ModelInfo


class AssumptionWarning(UserWarning):
    """A weights file could not tell something about its network, and it was assumed."""


def is_ours(config: Any) -> bool:
    """Whether dinokit, of this version or another, wrote this content of a `config.json`."""
    return isinstance(config, Mapping) and str(config.get("format")).startswith("dinokit-")


def info_from_config(config: Any, where: str) -> ModelInfo:
    """The content of a `config.json` that dinokit wrote; anything else is a `UserError` that names `where`."""
    if not isinstance(config, Mapping) or config.get("format") != FORMAT:
        raise UserError(f"{where} is not a dinokit config", f"its format must be {FORMAT}")
    try:
        spec = _spec_from_config(config.get("kind", "vit"), dict(_mapping(config["network"], "network")))
        name, digest = config["name"], config["weights_sha256"]
        if not isinstance(name, str) or not isinstance(digest, str):
            raise TypeError("name and weights_sha256 must be texts")
        spec = check_spec(spec, where)
        statistics = Statistics(*(_numbers(config[name], name, spec.in_channels) for name in ("mean", "std")))
        size = config["image_size"]
    except KeyError as problem:
        raise UserError(f"{where} lacks {problem}", "save the model again") from None
    except (TypeError, ValueError, OverflowError, UserError) as problem:
        raise UserError(f"{where} is damaged ({problem})", "save the model again") from None
    return check_info(ModelInfo(printable(name), spec, statistics, size, config.get("map_layer", -1), digest), where)


def _spec_from_config(kind: Any, network: dict[str, Any]) -> Spec:
    if kind not in _KINDS:
        raise ValueError(f"kind is {str(kind)[:60]!r}, not {' or '.join(_KINDS)}")
    if kind == "convnext":
        network |= {name: tuple(network[name]) for name in ("depths", "widths")}
        return ConvNeXtSpec(**network)
    rope = RopeSpec(**_mapping(network.pop("rope"), "rope"))
    return ViTSpec(**network, rope=rope)


def check_info(info: ModelInfo, where: str) -> ModelInfo:
    """`info` itself, or a `UserError` that names what of its picture statistics and size cannot be."""
    if type(info.image_size) is not int or not 1 <= info.image_size <= MAX_SIDE:
        raise UserError(f"{where}: image_size is {str(info.image_size)[:60]!r}", f"give 1 to {MAX_SIDE} pixels")
    depth = info.spec.depth
    if type(info.map_layer) is not int or not -depth <= info.map_layer < depth:
        raise UserError(f"{where}: map_layer is {str(info.map_layer)[:60]!r}", f"give a block from 0 to {depth - 1}")
    for name, values in (("mean", info.statistics.mean), ("std", info.statistics.std)):
        if not all(math.isfinite(value) and (name == "mean" or value > 0) for value in values):
            raise UserError(f"{where}: {name} is {list(values)}", "give finite numbers, those of std above 0")
    return info


def override(info: ModelInfo, changes: Mapping[str, Any], where: str) -> ModelInfo:
    """`info` with properties replaced by name: fields of its spec, `rope_` + a field of `RopeSpec`, `mean`, `std`,
    `image_size`, `map_layer`. Another `in_channels` brings statistics of as many channels. `UserError` for an unknown
    name or an impossible value.
    """
    spec = check_spec(override_spec(info.spec, {n: value for n, value in changes.items() if n not in _ABOUT}), where)
    channels = spec.in_channels
    suited = info.statistics if channels == info.spec.in_channels else fit_statistics(info.statistics, channels)
    try:
        values = {name: _numbers(changes.get(name, getattr(suited, name)), name, channels) for name in ("mean", "std")}
    except (TypeError, ValueError, OverflowError) as problem:
        raise UserError(f"{where}: {problem}", "give one for each channel of the pictures") from None
    about = {name: changes.get(name, getattr(info, name)) for name in ("image_size", "map_layer")}
    return check_info(replace(info, spec=spec, statistics=Statistics(**values), **about), where)


def override_spec(spec: Spec, changes: Mapping[str, Any]) -> Spec:
    """`spec` with fields replaced by name, `rope_` + name for those of its `RopeSpec`; unknown ones: `UserError`."""
    vit = isinstance(spec, ViTSpec)
    known = {field.name for field in fields(spec)}
    inner = {f"rope_{field.name}" for field in fields(RopeSpec)} if vit else set()
    for name in changes:
        if name not in known | inner:
            names = ", ".join(sorted(known | inner | set(_ABOUT)))
            raise UserError(f"a model has no property {name!r}", f"known are {names}")
    spec = replace(spec, **{name: value for name, value in changes.items() if name in known})
    rope = {name.removeprefix("rope_"): value for name, value in changes.items() if name in inner}
    return replace(spec, rope=replace(spec.rope, **rope)) if rope and isinstance(spec, ViTSpec) else spec


def fit_statistics(statistics: Statistics, channels: int) -> Statistics:
    """Statistics for another number of channels: the mean of all for one, else the same again in order."""

    def fit(values: tuple[float, ...]) -> tuple[float, ...]:
        if channels == 1:
            return (sum(values) / len(values),)
        return tuple(values[channel % len(values)] for channel in range(channels))

    return Statistics(fit(statistics.mean), fit(statistics.std))


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be an object")
    return value


def _numbers(value: Any, name: str, count: int) -> tuple[float, ...]:
    if count == 1 and type(value) in (int, float):
        value = [value]
    if not isinstance(value, (list, tuple)) or len(value) != count:
        raise TypeError(f"{name} must be {_COUNTS.get(count, str(count))} number{'s' if count > 1 else ''}")
    if not all(type(number) in (int, float) for number in value):
        raise TypeError(f"{name} must be numbers")
    return tuple(float(number) for number in value)


_COUNTS = {1: "one", 2: "two", 3: "three", 4: "four"}
