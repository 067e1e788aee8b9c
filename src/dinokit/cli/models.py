"""How verbs open the model that a person named, with what its file could not tell."""

from __future__ import annotations

import tomllib
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from dinokit.errors import UserError

if TYPE_CHECKING:
    from dinokit.checkpoints.model import LoadedModel
    from dinokit.inference.backbone import Backbone

Assume = Annotated[
    list[str] | None,
    Parameter(
        name="--assume",
        consume_multiple=True,
        negative=(),
        help="What a bare weights file cannot tell, as KEY=VALUE: norm_eps=1e-6, image_size=256, mean=[0.5,0.5,0.5].",
    ),
]
Device = Annotated[str, Parameter(name="--device", help="auto, cpu, cuda or mps; cuda:1 is the second.")]
Precision = Annotated[str, Parameter(name="--precision", help="auto, fp32 or bf16.")]


def open_model(model: str, assume: Sequence[str] | None) -> LoadedModel:
    """The network called `model`, on the CPU; what had to be assumed is said on standard error, one line each."""
    from dinokit.checkpoints.load import load_model
    from dinokit.cli.output import warn

    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: warn(str(message).replace("dinokit.load(...)", "--assume KEY=VALUE"))
        return load_model(model, **_parse(assume or ()))


def open_backbone(model: str, assume: Sequence[str] | None, device: str, precision: str) -> Backbone:
    """The backbone called `model`, as `open_model` opens it."""
    from dinokit.inference.backbone import Backbone

    return Backbone(open_model(model, assume), device, precision)


def _parse(assume: Sequence[str]) -> dict[str, Any]:
    values = {}
    for text in assume:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--assume {text} has no value", "write --assume norm_eps=1e-6")
        try:
            values[name.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            values[name.strip()] = value.strip()
    return values
