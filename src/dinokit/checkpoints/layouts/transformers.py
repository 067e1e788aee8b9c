"""The layout of transformers (`AutoModel.from_pretrained`): a folder with `config.json`, `preprocessor_config.json`
and `model.safetensors`. Published files, 4.56 and 5 on disk write `layer.0.`; 5 in memory `model.layer.0.`; the same
for `stages.` of a ConvNeXt.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from dinokit.backbones.convnext import ConvNeXtSpec
from dinokit.backbones.network import Spec
from dinokit.backbones.vit import ViTSpec
from dinokit.checkpoints.layouts import tables
from dinokit.checkpoints.layouts.tables import State
from dinokit.checkpoints.model import ModelInfo
from dinokit.errors import UserError

NAME = "transformers"
PROCESSOR = "preprocessor_config.json"

_VIT = (
    ("cls_token", "embeddings.cls_token"),
    ("storage_tokens", "embeddings.register_tokens"),
    ("mask_token", "embeddings.mask_token"),
    ("patch_embed.proj.*", "embeddings.patch_embeddings.*"),
    ("blocks.*.norm1.*", "layer.*.norm1.*"),
    ("blocks.*.attn.q.*", "layer.*.attention.q_proj.*"),
    ("blocks.*.attn.k.*", "layer.*.attention.k_proj.*"),
    ("blocks.*.attn.v.*", "layer.*.attention.v_proj.*"),
    ("blocks.*.attn.proj.*", "layer.*.attention.o_proj.*"),
    ("blocks.*.ls1.gamma", "layer.*.layer_scale1.lambda1"),
    ("blocks.*.norm2.*", "layer.*.norm2.*"),
    ("blocks.*.ls2.gamma", "layer.*.layer_scale2.lambda1"),
    ("norm.*", "norm.*"),
)
_MLP = (
    ("blocks.*.mlp.fc1.*", "layer.*.mlp.up_proj.*"),
    ("blocks.*.mlp.fc2.*", "layer.*.mlp.down_proj.*"),
)
_SWIGLU = (
    ("blocks.*.mlp.w1.*", "layer.*.mlp.gate_proj.*"),
    ("blocks.*.mlp.w2.*", "layer.*.mlp.up_proj.*"),
    ("blocks.*.mlp.w3.*", "layer.*.mlp.down_proj.*"),
)
_CONVNEXT = (
    ("downsample_layers.*.*.*", "stages.*.downsample_layers.*.*"),
    ("stages.*.*.dwconv.*", "stages.*.layers.*.depthwise_conv.*"),
    ("stages.*.*.norm.*", "stages.*.layers.*.layer_norm.*"),
    ("stages.*.*.pwconv1.*", "stages.*.layers.*.pointwise_conv1.*"),
    ("stages.*.*.pwconv2.*", "stages.*.layers.*.pointwise_conv2.*"),
    ("stages.*.*.gamma", "stages.*.layers.*.gamma"),
    ("norm.*", "layer_norm.*"),
)
_SIGNS = ("embeddings.patch_embeddings.weight", "stages.0.downsample_layers.0.weight")


def fits(keys: Collection[str]) -> bool:
    """Whether these are keys of this layout."""
    return any(key.removeprefix("model.") in _SIGNS for key in keys)


def to_ours(state: State) -> dict[str, Tensor]:
    """Their weights under our names, in our shapes. `KeyError` where a part of a fused weight is missing."""
    state = {key.removeprefix("model."): value for key, value in state.items()}
    if _SIGNS[1] in state:
        return tables.to_ours(state, _CONVNEXT)
    gated = tables.first_with(state, "layer.0.mlp.gate_proj.") is not None
    found = tables.join_qkv(tables.to_ours(state, _VIT + (_SWIGLU if gated else _MLP)))
    if "mask_token" in found:
        found["mask_token"] = found["mask_token"].reshape(1, -1)  # [1, 1, D] -> [1, D]
    if "storage_tokens" in found and not found["storage_tokens"].numel():
        del found["storage_tokens"]
    return found


def to_theirs(state: State, spec: Spec) -> dict[str, Tensor]:
    """Our weights under their names, in their shapes."""
    if isinstance(spec, ConvNeXtSpec):
        return tables.to_theirs(state, _CONVNEXT)
    state = {**state, "mask_token": state["mask_token"][None]}
    state.setdefault("storage_tokens", state["cls_token"].new_empty(1, 0, spec.width))
    state = tables.split_qkv(tables.with_layer_scale(state, spec))
    if spec.mask_k_bias:
        state = {key: value for key, value in state.items() if not key.endswith(".attn.k.bias")}
    return tables.to_theirs(state, _VIT + (_SWIGLU if spec.ffn == "swiglu" else _MLP))


def obstacle(spec: Spec, state: State) -> str | None:
    """The first property that a network of this layout cannot have; None where it can hold everything that counts."""
    return tables.vit_obstacle(spec) if isinstance(spec, ViTSpec) else None


def losses(spec: Spec, state: State) -> list[str]:
    """What a file of this layout does not keep, though its features are the same."""
    return tables.common_losses(spec, state)


def facts(config: Mapping[str, Any], processor: Mapping[str, Any]) -> dict[str, Any]:
    """What the two files say beside the shapes, by the names that `load_model` takes. `UserError` for other models."""
    kind = config.get("model_type")
    if kind not in ("dinov3_vit", "dinov3_convnext"):
        raise UserError(f"it is that of a {str(kind)[:60]!r} model", "dinokit reads dinov3_vit and dinov3_convnext")
    named = {"norm_eps": "layer_norm_eps", "in_channels": "num_channels", "image_size": "image_size"}
    if kind == "dinov3_vit":
        named |= {
            "width": "hidden_size",
            "depth": "num_hidden_layers",
            "heads": "num_attention_heads",
            "ffn_hidden": "intermediate_size",
            "registers": "num_register_tokens",
            "patch_size": "patch_size",
            "drop_path": "drop_path_rate",
            "layer_scale": "layerscale_value",
            "rope_base": "rope_theta",
            "rope_shift": "pos_embed_shift",
            "rope_jitter": "pos_embed_jitter",
            "rope_rescale": "pos_embed_rescale",
        }
    else:
        named |= {"depths": "depths", "widths": "hidden_sizes", "layer_scale": "layer_scale_init_value"}
    found = {name: config[theirs] for name, theirs in named.items() if theirs in config}
    found |= {name: tuple(found[name]) for name in ("depths", "widths") if isinstance(found.get(name), list)}
    if kind == "dinov3_vit":
        found = {"norm_eps": 1e-5, "rope_base": 100.0, "rope_normalize": "separate", "rope_rescale": 2.0} | found
    if "image_size" in found:
        found["image_size"] = tables.short_side(found["image_size"])
    return found | _processor_facts(processor)


def _processor_facts(processor: Mapping[str, Any]) -> dict[str, Any]:
    found = {
        name: tuple(processor[theirs])
        for name, theirs in (("mean", "image_mean"), ("std", "image_std"))
        if isinstance(processor.get(theirs), list)
    }
    size = processor.get("size")
    sides = [value for value in size.values() if type(value) is int] if isinstance(size, Mapping) else []
    return found | ({"image_size": min(sides)} if sides else {})


def describe(info: ModelInfo, dtype: torch.dtype) -> dict[str, dict[str, Any]]:
    """The content of the JSON files beside the weights, by name."""
    spec = info.spec
    config = _vit_config(spec) if isinstance(spec, ViTSpec) else _convnext_config(spec)
    config |= {"image_size": info.image_size, "num_channels": spec.in_channels}
    config["dtype"] = str(dtype).removeprefix("torch.")
    processor = {
        "image_processor_type": "DINOv3ViTImageProcessorFast",
        "do_resize": True,
        "size": {"height": info.image_size, "width": info.image_size},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(info.statistics.mean),
        "image_std": list(info.statistics.std),
    }
    return {"config.json": config, PROCESSOR: processor}


def _vit_config(spec: ViTSpec) -> dict[str, Any]:
    gated, biased = spec.ffn == "swiglu", spec.qkv_bias
    return {
        "architectures": ["DINOv3ViTModel"],
        "model_type": "dinov3_vit",
        "hidden_size": spec.width,
        "num_hidden_layers": spec.depth,
        "num_attention_heads": spec.heads,
        "intermediate_size": spec.ffn_hidden,
        "use_gated_mlp": gated,
        "hidden_act": "silu" if gated else "gelu",
        "patch_size": spec.patch_size,
        "num_register_tokens": spec.registers,
        "query_bias": biased,
        "key_bias": biased and not spec.mask_k_bias,
        "value_bias": biased,
        "proj_bias": True,
        "mlp_bias": True,
        "layer_norm_eps": spec.norm_eps,
        "layerscale_value": 1.0 if spec.layer_scale is None else spec.layer_scale,
        "drop_path_rate": spec.drop_path,
        "rope_theta": spec.rope.base,
        "pos_embed_shift": spec.rope.shift,
        "pos_embed_jitter": spec.rope.jitter,
        "pos_embed_rescale": spec.rope.rescale,
    }


def _convnext_config(spec: ConvNeXtSpec) -> dict[str, Any]:
    return {
        "architectures": ["DINOv3ConvNextModel"],
        "model_type": "dinov3_convnext",
        "depths": list(spec.depths),
        "hidden_sizes": list(spec.widths),
        "hidden_act": "gelu",
        "layer_norm_eps": spec.norm_eps,
        "layer_scale_init_value": spec.layer_scale,
    }
