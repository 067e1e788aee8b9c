"""The networks by name (DINOv3, table 2; shapes checked against every published key)."""

from __future__ import annotations

import difflib
from dataclasses import replace
from types import MappingProxyType

from dinokit.backbones.convnext import ConvNeXtSpec
from dinokit.backbones.network import Spec
from dinokit.backbones.rope import RopeSpec
from dinokit.backbones.vit import ViTSpec
from dinokit.errors import UserError


def _swiglu_hidden(width: int, ratio: float, align: int) -> int:
    """Two thirds of width * ratio, rounded up to a multiple of `align`."""
    hidden = int(int(width * ratio) * 2 / 3)
    return -(-hidden // align) * align


def _published(width: int, depth: int, heads: int, ffn_hidden: int, **changes: object) -> ViTSpec:
    spec = ViTSpec(width, depth, heads, ffn_hidden, rope=RopeSpec(rescale=2.0))
    return replace(spec, **changes)  # type: ignore[arg-type]


def _recipe(width: int, depth: int, heads: int, ratio: float = 4.0) -> ViTSpec:
    """Networks of the public ImageNet-1k recipe: no registers, no key mask, norm epsilon 1e-6."""
    return ViTSpec(width, depth, heads, int(width * ratio), registers=0, mask_k_bias=False, norm_eps=1e-6)


_GATED = {"ffn": "swiglu"}
_VIT_7B = _published(
    4096, 40, 32, _swiglu_hidden(4096, 3, 64), **_GATED, qkv_bias=False, mask_k_bias=False, local_cls_norm=True
)

NETWORKS: MappingProxyType[str, Spec] = MappingProxyType(
    {
        "dinokit_vitt16": _published(192, 12, 3, 768, registers=0),  # they were half of the tokens of small crops
        "dinov3_vits16": _published(384, 12, 6, 1536),
        "dinov3_vits16plus": _published(384, 12, 6, _swiglu_hidden(384, 6, 8), **_GATED),
        "dinov3_vitb16": _published(768, 12, 12, 3072),
        "dinov3_vitl16": _published(1024, 24, 16, 4096),
        "dinov3_vitl16_sat493m": _published(1024, 24, 16, 4096, local_cls_norm=True),
        "dinov3_vitl16plus": _published(1024, 24, 16, _swiglu_hidden(1024, 6, 8), **_GATED),
        "dinov3_vith16plus": _published(1280, 32, 20, _swiglu_hidden(1280, 6, 8), **_GATED),
        "dinov3_vit7b16": _VIT_7B,
        "dinov3_vit7b16_sat493m": _VIT_7B,
        "dinov3_convnext_tiny": ConvNeXtSpec((3, 3, 9, 3), (96, 192, 384, 768)),
        "dinov3_convnext_small": ConvNeXtSpec((3, 3, 27, 3), (96, 192, 384, 768)),
        "dinov3_convnext_base": ConvNeXtSpec((3, 3, 27, 3), (128, 256, 512, 1024)),
        "dinov3_convnext_large": ConvNeXtSpec((3, 3, 27, 3), (192, 384, 768, 1536)),
        "vit_small": _recipe(384, 12, 6),
        "vit_base": _recipe(768, 12, 12),
        "vit_large": _recipe(1024, 24, 16),
        "vit_so400m": _recipe(1152, 27, 18, 3.777777778),
        "vit_huge2": _recipe(1280, 32, 20),
        "vit_giant2": _recipe(1536, 40, 24),
        "vit_7b": _recipe(4096, 40, 32, 3.0),
    }
)
"""Every network by name: our bundled one, Meta's published ones, and those of its training configurations."""


def spec_of(name: str) -> Spec:
    """The shape of the network called `name`; an unknown name is a `UserError` that names the nearest."""
    if name in NETWORKS:
        return NETWORKS[name]
    near = difflib.get_close_matches(name.lower(), NETWORKS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(NETWORKS)}"
    raise UserError(f"no network is called {name!r}", hint)
