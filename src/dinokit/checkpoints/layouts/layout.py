"""What a layout is: the functions that each of the modules beside this one has."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from dinokit.backbones.network import Spec
from dinokit.checkpoints.layouts import meta, timm, transformers
from dinokit.checkpoints.layouts.tables import State
from dinokit.checkpoints.model import ModelInfo


class Layout(Protocol):
    """A published way to name and store the weights of these networks."""

    NAME: str

    def fits(self, keys: Collection[str]) -> bool:
        """Whether these are keys of this layout."""

    def to_ours(self, state: State) -> dict[str, Tensor]:
        """Their weights under our names, in our shapes. `KeyError` where a part of a fused weight is missing."""

    def to_theirs(self, state: State, spec: Spec) -> dict[str, Tensor]:
        """Our weights under their names, in their shapes."""

    def obstacle(self, spec: Spec, state: State) -> str | None:
        """The first property that a network of this layout cannot have, if there is one."""

    def losses(self, spec: Spec, state: State) -> list[str]:
        """What a file of this layout does not keep, though its features are the same."""

    def facts(self, config: Mapping[str, Any], processor: Mapping[str, Any]) -> dict[str, Any]:
        """What the JSON files beside the weights say, by the names that `load_model` takes. `UserError` if strange."""

    def describe(self, info: ModelInfo, dtype: torch.dtype) -> dict[str, dict[str, Any]]:
        """The content of the JSON files beside weights of `dtype`, by name."""


LAYOUTS: tuple[Layout, ...] = (transformers, timm, meta)
"""In the order in which keys are tried."""


def layout_of(keys: Collection[str]) -> Layout | None:
    """The layout that these keys belong to."""
    return next((layout for layout in LAYOUTS if layout.fits(keys)), None)


def layout_of_config(config: Mapping[str, Any]) -> Layout:
    """The layout whose `config.json` has this content; Meta's, which has none, where it says nothing."""
    return transformers if "model_type" in config else timm if "architecture" in config else meta
