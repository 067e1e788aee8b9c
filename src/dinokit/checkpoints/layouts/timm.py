"""The layout of timm (`timm.create_model("local-dir:FOLDER", pretrained=True)`, or its repositories on the Hub):
`config.json` with the architecture and its arguments, and `model.safetensors`.

timm has two forms of each ViT: plain, without biases of queries and values, and `_qkvb` with them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from dinokit.backbones.catalog import NETWORKS
from dinokit.backbones.convnext import ConvNeXtSpec
from dinokit.backbones.network import Spec
from dinokit.backbones.vit import ViTSpec
from dinokit.checkpoints.layouts import tables
from dinokit.checkpoints.layouts.tables import State
from dinokit.checkpoints.model import ModelInfo
from dinokit.errors import UserError

NAME = "timm"

_VIT = (
    ("cls_token", "cls_token"),
    ("storage_tokens", "reg_token"),
    ("patch_embed.proj.*", "patch_embed.proj.*"),
    ("blocks.*.norm1.*", "blocks.*.norm1.*"),
    ("blocks.*.attn.qkv.weight", "blocks.*.attn.qkv.weight"),
    ("blocks.*.attn.q.bias", "blocks.*.attn.q_bias"),
    ("blocks.*.attn.v.bias", "blocks.*.attn.v_bias"),
    ("blocks.*.attn.proj.*", "blocks.*.attn.proj.*"),
    ("blocks.*.ls1.gamma", "blocks.*.gamma_1"),
    ("blocks.*.norm2.*", "blocks.*.norm2.*"),
    ("blocks.*.ls2.gamma", "blocks.*.gamma_2"),
    ("norm.*", "norm.*"),
)
_MLP = (
    ("blocks.*.mlp.fc1.*", "blocks.*.mlp.fc1.*"),
    ("blocks.*.mlp.fc2.*", "blocks.*.mlp.fc2.*"),
)
_SWIGLU = (
    ("blocks.*.mlp.w1.*", "blocks.*.mlp.fc1_g.*"),
    ("blocks.*.mlp.w2.*", "blocks.*.mlp.fc1_x.*"),
    ("blocks.*.mlp.w3.*", "blocks.*.mlp.fc2.*"),
)
_CONVNEXT = (
    ("downsample_layers.0.*.*", "stem.*.*"),
    ("downsample_layers.*.*.*", "stages.*.downsample.*.*"),
    ("stages.*.*.dwconv.*", "stages.*.blocks.*.conv_dw.*"),
    ("stages.*.*.norm.*", "stages.*.blocks.*.norm.*"),
    ("stages.*.*.pwconv1.*", "stages.*.blocks.*.mlp.fc1.*"),
    ("stages.*.*.pwconv2.*", "stages.*.blocks.*.mlp.fc2.*"),
    ("stages.*.*.gamma", "stages.*.blocks.*.gamma"),
    ("norm.*", "head.norm.*"),
)
_SIGNS = ("reg_token", "blocks.0.gamma_1", "blocks.0.attn.q_bias", "blocks.0.mlp.fc1_g.weight")
_OURS = ("rope_embed.periods", "storage_tokens", "mask_token", "blocks.0.ls1.gamma", "pos_embed")

_ARCHITECTURES = {
    "vit_tiny_patch16_dinov3": "dinokit_vitt16",
    "vit_small_patch16_dinov3": "dinov3_vits16",
    "vit_small_plus_patch16_dinov3": "dinov3_vits16plus",
    "vit_base_patch16_dinov3": "dinov3_vitb16",
    "vit_large_patch16_dinov3": "dinov3_vitl16",
    "vit_huge_plus_patch16_dinov3": "dinov3_vith16plus",
    "vit_7b_patch16_dinov3": "dinov3_vit7b16",
    "convnext_tiny": "dinov3_convnext_tiny",
    "convnext_small": "dinov3_convnext_small",
    "convnext_base": "dinov3_convnext_base",
    "convnext_large": "dinov3_convnext_large",
}
"""timm's name without `_qkvb` -> ours."""
_BY_EPSILON = {1e-5: "vit_small_patch16_dinov3", 1e-6: "vit_medium_patch16_rope_reg1_gap_256"}
"""Arguments in a file cannot set the epsilon of norms: the architectures with these, of which all else is set."""


def fits(keys: Collection[str]) -> bool:
    """Whether these are keys of this layout."""
    if "stem.0.weight" in keys or any(sign in keys for sign in _SIGNS):
        return True
    return "blocks.0.attn.qkv.weight" in keys and not any(key in keys for key in _OURS)


def to_ours(state: State) -> dict[str, Tensor]:
    """Their weights under our names; a mask token, which they drop, is zero. `KeyError` where a weight is missing."""
    if "stem.0.weight" in state:
        found = tables.to_ours(state, _CONVNEXT)
        linear = {key: value.flatten(1) for key, value in found.items() if ".pwconv" in key and value.ndim == 4}
        return {**found, **linear}
    gated = "blocks.0.mlp.fc1_g.weight" in state
    found = tables.join_qkv(tables.to_ours(state, _VIT + (_SWIGLU if gated else _MLP)))
    return {**found, "mask_token": found["cls_token"].new_zeros(1, found["cls_token"].shape[-1])}


def to_theirs(state: State, spec: Spec) -> dict[str, Tensor]:
    """Our weights under their names."""
    if isinstance(spec, ConvNeXtSpec):
        return tables.to_theirs(state, _CONVNEXT)
    state = tables.with_layer_scale(state, spec)
    split = {key: value for key, value in tables.split_qkv(state).items() if key.endswith(".bias")}
    table = _VIT + (_SWIGLU if spec.ffn == "swiglu" else _MLP)
    return tables.to_theirs({**state, **split}, table)


def obstacle(spec: Spec, state: State) -> str | None:
    """The first property that a network of this layout cannot have; None where it can hold everything that counts."""
    if isinstance(spec, ConvNeXtSpec):
        return None
    biases = [value for key, value in state.items() if key.endswith(".qkv.bias")]
    if not spec.mask_k_bias and any(bool(bias.chunk(3)[1].any()) for bias in biases):
        return "a bias of the keys (mask_k_bias=False)"
    if not any(abs(spec.norm_eps / epsilon - 1) < 1e-6 for epsilon in _BY_EPSILON):
        return f"a norm epsilon of {spec.norm_eps:g} (norm_eps)"
    return tables.vit_obstacle(spec)


def losses(spec: Spec, state: State) -> list[str]:
    """What a file of this layout does not keep, though its features are the same."""
    if isinstance(spec, ConvNeXtSpec):
        return tables.common_losses(spec, state)
    lost = ["the mask token"] if bool(state["mask_token"].any()) else []
    return lost + tables.common_losses(spec, state)


def facts(config: Mapping[str, Any], processor: Mapping[str, Any]) -> dict[str, Any]:
    """What `config.json` says beside the shapes, by the names that `load_model` takes. `UserError` for other models."""
    name = str(config.get("architecture")).partition(".")[0]
    base = NETWORKS.get(_ARCHITECTURES.get(name.removesuffix("_qkvb"), ""))
    if base is None and name not in _BY_EPSILON.values():
        raise UserError(f"it is that of timm's {name[:60]}", f"dinokit reads {', '.join(_ARCHITECTURES)}")
    given = config.get("model_args")
    arguments: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    about = config.get("pretrained_cfg", config)
    found = _data_facts(about) if isinstance(about, Mapping) else {}
    if isinstance(base, ConvNeXtSpec):
        return found | {"norm_eps": arguments.get("norm_eps", base.norm_eps)}
    epsilon = next((epsilon for epsilon, other in _BY_EPSILON.items() if other == name), 1e-5)
    found |= {"norm_eps": epsilon, "rope_normalize": "separate"}
    if base is not None:
        found |= {"heads": base.heads, "rope_base": base.rope.base, "rope_rescale": base.rope.rescale}
    named = {
        "heads": "num_heads",
        "rope_base": "rope_temperature",
        "rope_rescale": "rope_rescale_coords",
        "rope_shift": "rope_shift_coords",
        "rope_jitter": "rope_jitter_coords",
        "layer_scale": "init_values",
    }
    return found | {ours: arguments[theirs] for ours, theirs in named.items() if theirs in arguments}


def _data_facts(about: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {name: tuple(about[name]) for name in ("mean", "std") if isinstance(about.get(name), list)}
    size = about.get("input_size")
    return found | ({"image_size": tables.short_side(size[1:])} if isinstance(size, list) else {})


def describe(info: ModelInfo, dtype: torch.dtype) -> dict[str, dict[str, Any]]:
    """The content of the JSON file beside the weights, by name."""
    spec, vit = info.spec, isinstance(info.spec, ViTSpec)
    about = {
        "input_size": [spec.in_channels, info.image_size, info.image_size],
        "fixed_input_size": False,
        "pool_size": None,
        "num_classes": 0,
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "mean": list(info.statistics.mean),
        "std": list(info.statistics.std),
        "first_conv": "patch_embed.proj" if vit else "stem.0",
        "classifier": "head" if vit else "head.fc",
    }
    pool = "token" if vit else "avg"
    arguments = _vit_arguments(spec) if isinstance(spec, ViTSpec) else _convnext_arguments(spec)
    config = {
        "architecture": architecture(spec),
        "num_classes": 0,
        "num_features": spec.width,
        "global_pool": pool,
        "model_args": {**arguments, "in_chans": spec.in_channels, "global_pool": pool, "num_classes": 0},
        "pretrained_cfg": about,
    }
    return {"config.json": config}


def architecture(spec: Spec) -> str:
    """timm's name of this network; where it has none, of one whose arguments can make it."""
    if isinstance(spec, ConvNeXtSpec):
        shapes = {other: NETWORKS[ours] for other, ours in _ARCHITECTURES.items()}
        return next((name for name, other in shapes.items() if _same_stages(spec, other)), "convnext_tiny")
    name = next(name for epsilon, name in _BY_EPSILON.items() if abs(spec.norm_eps / epsilon - 1) < 1e-6)
    if name != _BY_EPSILON[1e-5]:
        return name
    alike = (other for other, ours in _ARCHITECTURES.items() if _same_blocks(spec, NETWORKS[ours]))
    name = next(alike, name)
    only_biased, only_plain = name.startswith("vit_tiny"), name.startswith("vit_7b")
    return f"{name}_qkvb" if only_biased or (spec.qkv_bias and not only_plain) else name


def _same_blocks(spec: ViTSpec, other: Spec) -> bool:
    names = ("width", "depth", "heads", "ffn", "ffn_hidden")
    return isinstance(other, ViTSpec) and all(getattr(spec, name) == getattr(other, name) for name in names)


def _same_stages(spec: ConvNeXtSpec, other: Spec) -> bool:
    return isinstance(other, ConvNeXtSpec) and (spec.depths, spec.widths) == (other.depths, other.widths)


def _vit_arguments(spec: ViTSpec) -> dict[str, Any]:
    whole, rest = divmod(spec.ffn_hidden, spec.width)
    return {
        "patch_size": spec.patch_size,
        "embed_dim": spec.width,
        "depth": spec.depth,
        "num_heads": spec.heads,
        "qkv_bias": spec.qkv_bias,
        "mlp_ratio": (spec.ffn_hidden + 0.5) / spec.width if rest else whole,  # timm rounds the product down
        "swiglu_mlp": spec.ffn == "swiglu",
        "swiglu_align_to": 1 if spec.ffn == "swiglu" else 0,
        "init_values": 1.0 if spec.layer_scale is None else spec.layer_scale,
        "class_token": True,
        "num_reg_tokens": spec.registers,
        "use_abs_pos_emb": False,
        "use_rot_pos_emb": True,
        "rope_type": "dinov3",
        "rope_rotate_half": True,
        "rope_temperature": spec.rope.base,
        "rope_shift_coords": spec.rope.shift,
        "rope_jitter_coords": spec.rope.jitter,
        "rope_rescale_coords": spec.rope.rescale,
        "use_fc_norm": False,
        "dynamic_img_size": True,
    }


def _convnext_arguments(spec: ConvNeXtSpec) -> dict[str, Any]:
    return {"depths": list(spec.depths), "dims": list(spec.widths), "norm_eps": spec.norm_eps}
