"""What is known about a model beside its weights, and how `config.json` keeps it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from dinokit.backbones.rope import RopeSpec
from dinokit.backbones.vit import VisionTransformer, ViTSpec
from dinokit.checkpoints.names import printable
from dinokit.checkpoints.spec_check import check_spec
from dinokit.errors import UserError
from dinokit.images.normalize import IMAGENET, Statistics

FORMAT = "dinokit-1"
MAX_SIDE = 16384
"""The largest picture side, in pixels, that a model may ask for by itself."""


@dataclass(frozen=True)
class ModelInfo:
    """A model's name, shape and picture statistics, and where its weights come from."""

    name: str
    spec: ViTSpec
    statistics: Statistics = IMAGENET
    image_size: int = 224
    """Short side in pixels at which the model is read unless a size is given."""
    weights_sha256: str = ""
    assumptions: tuple[str, ...] = ()
    """What the files could not tell and was assumed."""

    def to_config(self) -> dict[str, Any]:
        """The content of `config.json`."""
        return {
            "format": FORMAT,
            "name": self.name,
            "network": asdict(self.spec),
            "mean": list(self.statistics.mean),
            "std": list(self.statistics.std),
            "image_size": self.image_size,
            "weights_sha256": self.weights_sha256,
        }


@dataclass(frozen=True)
class LoadedModel:
    """A network with weights, ready to be frozen or trained further, and what is known about it."""

    network: VisionTransformer
    info: ModelInfo


class AssumptionWarning(UserWarning):
    """A weights file could not tell something about its network, and it was assumed."""


def is_ours(config: Any) -> bool:
    """Whether dinokit, of this version or another, wrote this content of a `config.json`."""
    return isinstance(config, Mapping) and str(config.get("format")).startswith("dinokit-")


def info_from_config(config: Any, where: str) -> ModelInfo:
    """The content of a `config.json` that dinokit wrote; anything else is a `UserError` that names `where`."""
    if isinstance(config, Mapping) and "model_type" in config and not is_ours(config):
        raise UserError(f"{where} is that of a transformers model", "give the .pth file in Meta's key layout")
    if not isinstance(config, Mapping) or config.get("format") != FORMAT:
        raise UserError(f"{where} is not a dinokit config", f"its format must be {FORMAT}")
    try:
        network = dict(_mapping(config["network"], "network"))
        rope = RopeSpec(**_mapping(network.pop("rope"), "rope"))
        spec = ViTSpec(**network, rope=rope)
        statistics = Statistics(*(_three_numbers(config[name], name) for name in ("mean", "std")))
        name, digest = config["name"], config["weights_sha256"]
        if not isinstance(name, str) or not isinstance(digest, str):
            raise TypeError("name and weights_sha256 must be texts")
        size = config["image_size"]
    except KeyError as problem:
        raise UserError(f"{where} lacks {problem}", "save the model again") from None
    except (TypeError, ValueError, OverflowError, UserError) as problem:
        raise UserError(f"{where} is damaged ({problem})", "save the model again") from None
    return check_info(ModelInfo(printable(name), check_spec(spec, where), statistics, size, digest), where)


def check_info(info: ModelInfo, where: str) -> ModelInfo:
    """`info` itself, or a `UserError` that names what of its picture statistics and size cannot be."""
    if type(info.image_size) is not int or not 1 <= info.image_size <= MAX_SIDE:
        raise UserError(f"{where}: image_size is {info.image_size!r}", f"give 1 to {MAX_SIDE} pixels")
    for name, values in (("mean", info.statistics.mean), ("std", info.statistics.std)):
        if not all(math.isfinite(value) and (name == "mean" or value > 0) for value in values):
            raise UserError(f"{where}: {name} is {list(values)}", "give three finite numbers, those of std above 0")
    return info


def override(info: ModelInfo, changes: Mapping[str, Any], where: str) -> ModelInfo:
    """`info` with properties replaced by name: fields of `ViTSpec`, `rope_` + a field of `RopeSpec`, `mean`, `std`,
    `image_size`. What is given is no assumption any more. `UserError` for an unknown name or an impossible value.
    """
    changes = dict(changes)
    about = {name: changes.pop(name) for name in ("mean", "std", "image_size") if name in changes}
    spec = check_spec(override_spec(info.spec, changes), where)
    try:
        values = {
            name: _three_numbers(about.get(name, getattr(info.statistics, name)), name) for name in ("mean", "std")
        }
    except (TypeError, ValueError, OverflowError) as problem:
        raise UserError(f"{where}: {problem}", "give the channels red, green and blue") from None
    size = about.get("image_size", info.image_size)
    return check_info(replace(info, spec=spec, statistics=Statistics(**values), image_size=size), where)


def override_spec(spec: ViTSpec, changes: Mapping[str, Any]) -> ViTSpec:
    """`spec` with fields replaced by name, `rope_` + name for those of its `RopeSpec`; unknown ones: `UserError`."""
    known = {field.name for field in fields(ViTSpec)}
    inner = {f"rope_{field.name}" for field in fields(RopeSpec)}
    for name in changes:
        if name not in known | inner:
            names = ", ".join(sorted(known | inner | {"mean", "std", "image_size"}))
            raise UserError(f"a model has no property {name!r}", f"known are {names}")
    spec = replace(spec, **{name: value for name, value in changes.items() if name in known})
    rope = {name.removeprefix("rope_"): value for name, value in changes.items() if name in inner}
    return replace(spec, rope=replace(spec.rope, **rope)) if rope else spec


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be an object")
    return value


def _three_numbers(value: Any, name: str) -> tuple[float, float, float]:
    if not isinstance(value, (list, tuple)) or len(value) != 3:
        raise TypeError(f"{name} must be three numbers")
    if not all(type(number) in (int, float) for number in value):
        raise TypeError(f"{name} must be three numbers")
    red, green, blue = (float(number) for number in value)
    return red, green, blue
