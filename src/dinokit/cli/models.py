"""How verbs open the model that a person named, with what its file could not tell."""

from __future__ import annotations

import sys
import tomllib
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from dinokit.errors import UserError

if TYPE_CHECKING:
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


def open_backbone(model: str, assume: Sequence[str] | None) -> Backbone:
    """The backbone called `model`; what had to be assumed is said on standard error, one line each."""
    import dinokit

    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
        return dinokit.load(model, **_parse(assume or ()))


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
