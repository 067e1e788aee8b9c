"""The entry points of Meta's `torch.hub` repository, so that programs written for it load networks from this one.

    model = torch.hub.load("PATH/TO/THIS/FOLDER", "dinov3_vits16", source="local", weights="FILE or https address")

The modules have Meta's state dict, `forward`, `forward_features` and `get_intermediate_layers`.
"""

import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))

from dinokit.backbones.catalog import spec_of
from dinokit.backbones.network import Spec
from dinokit.backbones.published_interface import build_published, with_published_interface
from dinokit.backbones.vit import ViTSpec
from dinokit.checkpoints.load import load_model
from dinokit.checkpoints.model import override_spec
from dinokit.errors import UserError

dependencies = ["torch", "numpy", "safetensors"]


class Weights(Enum):
    """The published trainings."""

    LVD1689M = "LVD1689M"
    SAT493M = "SAT493M"


def _entry_point(name: str) -> Callable[..., Any]:
    def entry(
        *,
        pretrained: bool = True,
        weights: Weights | str | None = Weights.LVD1689M,
        check_hash: bool = False,
        **options: Any,
    ) -> Any:
        if not pretrained:
            return build_published(override_spec(spec_of(name), options))
        model = load_model(_source(name, weights or Weights.LVD1689M), **options)
        if _shape(model.info.spec) != _shape(spec_of(name)):
            raise UserError(f"{weights} holds no {name}", "give the weights of that network, or call its entry point")
        return with_published_interface(model.network.float(), model.info.spec)

    entry.__name__ = name
    entry.__doc__ = f"""{name}, untrained (pretrained=False) or with weights.

    weights: `Weights.LVD1689M` or `Weights.SAT493M` (from the Hugging Face Hub: the licence is yours to accept), a
    path, or an https address. The hash in the name of a published file is always checked. options: properties of the
    network by dinokit's names, such as norm_eps.
    """
    return entry


def _shape(spec: Spec) -> tuple[object, ...]:
    if isinstance(spec, ViTSpec):
        return spec.width, spec.depth, spec.heads, spec.ffn, spec.ffn_hidden
    return spec.widths, spec.depths


def _source(name: str, weights: Weights | str) -> str:
    known = {member.value for member in Weights}
    if isinstance(weights, Enum) or weights in known:
        data = weights.value if isinstance(weights, Enum) else weights
        return name if data == Weights.LVD1689M.value else f"{name}_sat493m"
    return unquote(urlsplit(weights).path) if weights.startswith("file:") else str(weights)


dinov3_vits16 = _entry_point("dinov3_vits16")
dinov3_vits16plus = _entry_point("dinov3_vits16plus")
dinov3_vitb16 = _entry_point("dinov3_vitb16")
dinov3_vitl16 = _entry_point("dinov3_vitl16")
dinov3_vitl16plus = _entry_point("dinov3_vitl16plus")
dinov3_vith16plus = _entry_point("dinov3_vith16plus")
dinov3_vit7b16 = _entry_point("dinov3_vit7b16")
dinov3_convnext_tiny = _entry_point("dinov3_convnext_tiny")
dinov3_convnext_small = _entry_point("dinov3_convnext_small")
dinov3_convnext_base = _entry_point("dinov3_convnext_base")
dinov3_convnext_large = _entry_point("dinov3_convnext_large")
