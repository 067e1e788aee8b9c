"""What is known about a model beside its weights, and how `config.json` keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from dinokit.backbones.rope import RopeSpec
from dinokit.backbones.vit import VisionTransformer, ViTSpec
from dinokit.errors import UserError
from dinokit.images.normalize import IMAGENET, Statistics

FORMAT = "dinokit-1"


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


def info_from_config(config: Mapping[str, Any], where: str) -> ModelInfo:
    """The content of a `config.json` that dinokit wrote; anything else is a `UserError` that names `where`."""
    if config.get("format") != FORMAT:
        raise UserError(f"{where} is not a dinokit config", f"its format must be {FORMAT}")
    try:
        network = dict(config["network"])
        rope = RopeSpec(**network.pop("rope"))
        return ModelInfo(
            name=str(config["name"]),
            spec=ViTSpec(**network, rope=rope),
            statistics=Statistics(tuple(config["mean"]), tuple(config["std"])),
            image_size=int(config["image_size"]),
            weights_sha256=str(config["weights_sha256"]),
        )
    except (KeyError, TypeError, ValueError) as problem:
        raise UserError(f"{where} is damaged ({problem})", "save the model again") from None


def override_spec(spec: ViTSpec, changes: Mapping[str, Any]) -> ViTSpec:
    """`spec` with fields replaced by name; an unknown field is a `UserError`."""
    known = {field.name for field in fields(ViTSpec)}
    for name in changes:
        if name not in known:
            raise UserError(f"a network has no property {name!r}", f"known are {', '.join(sorted(known))}")
    return replace(spec, **changes)
