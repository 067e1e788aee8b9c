"""Meta's layout, whose names are ours: `blocks.0.attn.qkv.weight`, `storage_tokens`, `rope_embed.periods`.

A `.pth` file alone, without a word about the network: what keys and shapes cannot tell, the epsilon of the norms and
the statistics of the pictures, is known for published files by their hash. ConvNeXt files hold the final norm twice.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from dinokit.backbones.convnext import ConvNeXtSpec
from dinokit.backbones.network import Spec
from dinokit.checkpoints.layouts import tables
from dinokit.checkpoints.layouts.tables import State
from dinokit.checkpoints.model import ModelInfo, fit_statistics
from dinokit.images.normalize import IMAGENET

NAME = "meta"

PUBLISHED_FILES = {
    "08c60483": "dinov3_vits16",
    "4057cbaa": "dinov3_vits16plus",
    "73cec8be": "dinov3_vitb16",
    "8aa4cbdd": "dinov3_vitl16",
    "eadcf0ff": "dinov3_vitl16_sat493m",
    "46503df0": "dinov3_vitl16plus",
    "7c1da9a5": "dinov3_vith16plus",
    "a955f4ea": "dinov3_vit7b16",
    "a6675841": "dinov3_vit7b16_sat493m",
    "21b726bb": "dinov3_convnext_tiny",
    "296db49d": "dinov3_convnext_small",
    "801f2ba9": "dinov3_convnext_base",
    "61fa432d": "dinov3_convnext_large",
}
"""First eight hexadecimal digits of a published file's SHA-256 -> catalogue name."""

_FILE = re.compile(r"\w+_pretrain_\w+-([0-9a-f]{8})\.pth")
_SIGNS = ("rope_embed.periods", "storage_tokens", "blocks.0.ls1.gamma", "downsample_layers.0.0.weight")
_AGAIN = "norms.3."


def promised_hash(name: str) -> str | None:
    """The beginning of the SHA-256 that the name of a published file promises."""
    found = _FILE.fullmatch(name)
    return found[1] if found else None


def file_name(name: str, digest: str) -> str:
    """What a file of this layout is called: `dinov3_vits16_pretrain_lvd1689m-08c60483.pth`."""
    data = "sat493m" if name.endswith("_sat493m") else "lvd1689m" if name in PUBLISHED_FILES.values() else "own"
    stem = re.sub(r"\W+", "_", name.removesuffix("_sat493m"))
    return f"{stem}_pretrain_{data}-{digest[:8]}.pth"


def fits(keys: Collection[str]) -> bool:
    """Whether these are keys of this layout."""
    return any(sign in keys for sign in _SIGNS)


def to_ours(state: State) -> dict[str, Tensor]:
    """The same without the second copy of a ConvNeXt's final norm."""
    return {key: value for key, value in state.items() if not key.startswith(_AGAIN)}


def to_theirs(state: State, spec: Spec) -> dict[str, Tensor]:
    """The same with the second copy of a ConvNeXt's final norm."""
    if not isinstance(spec, ConvNeXtSpec):
        return dict(state)
    again = {key.replace("norm.", _AGAIN, 1): value for key, value in state.items() if key.startswith("norm.")}
    return {**state, **again}


def obstacle(spec: Spec, state: State) -> str | None:
    """Nothing: what the names cannot say is an option of the published class."""
    return None


def losses(spec: Spec, state: State) -> list[str]:
    """What a file of this layout does not keep."""
    if isinstance(spec, ConvNeXtSpec):
        return tables.common_losses(spec, state)
    return []


def unsaid(info: ModelInfo) -> list[str]:
    """What holds for the model and not for a file of unknown origin, which whoever loads it has to say."""
    usual = fit_statistics(IMAGENET, info.spec.in_channels)
    found = [] if info.statistics == usual else ["mean and std of the pictures"]
    return found if info.image_size == ModelInfo.image_size else [*found, f"the size of {info.image_size} px"]


def facts(config: Mapping[str, Any], processor: Mapping[str, Any]) -> dict[str, Any]:
    """Nothing: no file says more."""
    return {}


def describe(info: ModelInfo, dtype: torch.dtype) -> dict[str, dict[str, Any]]:
    """Nothing lies beside the weights."""
    return {}
