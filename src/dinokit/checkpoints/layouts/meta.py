"""Meta's key layout, which is also ours: `blocks.0.attn.qkv.weight`, `storage_tokens`, `rope_embed.periods`.

The architecture of a bare file is read off its keys and shapes. What they cannot tell, the epsilon of the norms
and the statistics of the pictures, is known for published files by their hash and assumed for others.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dinokit.backbones.rope import RopeSpec
from dinokit.backbones.vit import ViTSpec
from dinokit.checkpoints.layouts.strangers import recognize
from dinokit.checkpoints.spec_check import check_spec
from dinokit.checkpoints.weights import check_weight
from dinokit.errors import UserError

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
}
"""First eight hexadecimal digits of a published file's SHA-256 -> catalogue name."""

_FIRST = "patch_embed.proj.weight"
_WRAPPERS = ("teacher", "model_ema", "model", "state_dict")
_PREFIXES = ("module.", "teacher.", "model_ema.", "backbone.", "_orig_mod.")


def unwrap(content: Any) -> dict[str, Tensor]:
    """The backbone's state dict inside a checkpoint: wrappers opened, prefixes stripped, heads left out.

    `UserError` if there is no state dict, or none that belongs to a DINOv3 ViT.
    """
    for _ in range(len(_WRAPPERS)):  # a wrapper may lie in a wrapper
        inner = [content[name] for name in _WRAPPERS if isinstance(content, Mapping) and name in content]
        if not inner or not isinstance(inner[0], Mapping):
            break
        content = inner[0]
    if not isinstance(content, Mapping) or not content:
        raise UserError("the checkpoint holds no state dict of tensors", "give a file with a network's weights")
    strange = next((key for key, value in content.items() if not isinstance(value, Tensor)), None)
    if strange is not None:
        what = f"the checkpoint holds no state dict of tensors ({str(strange)[:60]!r} is none)"
        raise UserError(what, "give a file with a network's weights")
    state = {str(key): value for key, value in content.items()}
    for prefix in _PREFIXES:
        chosen = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        state = chosen or state
    return state


def spec_from_state(state: Mapping[str, Tensor]) -> ViTSpec:
    """The network that these weights belong to. `UserError` if they are not a DINOv3 ViT's."""
    stranger = recognize(state)
    if stranger is not None:
        raise UserError(f"these are the weights of {stranger[0]}", stranger[1])
    if _FIRST not in state:
        raise _not_ours(f"no {_FIRST}")
    for key, value in state.items():
        check_weight(key, value, "read off the weights")
    try:
        spec = _read_spec(state)
    except (KeyError, IndexError, ZeroDivisionError, TypeError, ValueError, OverflowError) as problem:
        raise _not_ours(f"no usable {problem}") from None
    return check_spec(spec, "read off the weights")


def _not_ours(why: str) -> UserError:
    what = f"these are not the weights of a DINOv3 vision transformer ({why})"
    return UserError(what, "give a file in Meta's or dinokit's key layout")


def _read_spec(state: Mapping[str, Tensor]) -> ViTSpec:
    width, channels, patch, _ = state[_FIRST].shape
    head_dim = 4 * len(state["rope_embed.periods"])
    gated = "blocks.0.mlp.w1.weight" in state
    registers = state["storage_tokens"].shape[1] if "storage_tokens" in state else 0
    return ViTSpec(
        width=width,
        depth=len({key.split(".")[1] for key in state if key.startswith("blocks.")}),
        heads=width // head_dim,
        ffn_hidden=state[f"blocks.0.mlp.{'w1' if gated else 'fc1'}.weight"].shape[0],
        ffn="swiglu" if gated else "mlp",
        patch_size=patch,
        in_channels=channels,
        registers=registers,
        qkv_bias="blocks.0.attn.qkv.bias" in state,
        mask_k_bias="blocks.0.attn.qkv.bias_mask" in state,
        layer_scale=1e-5 if "blocks.0.ls1.gamma" in state else None,
        untied_cls_norm="cls_norm.weight" in state,
        local_cls_norm="local_cls_norm.weight" in state,
        rope=_read_rope(state["rope_embed.periods"].detach().float(), head_dim),
    )


def _read_rope(periods: Tensor, head_dim: int) -> RopeSpec:
    """The base that gives these periods (to bfloat16 rounding), else their least and greatest."""
    if not torch.isfinite(periods).all() or (periods <= 0).any():
        raise UserError("the RoPE periods are not positive numbers", "the file is damaged")
    if len(periods) > 1:
        base = float(periods[-1]) ** (len(periods) / (len(periods) - 1))
        for candidate in (100.0, round(base), base):
            if candidate > 0 and torch.allclose(RopeSpec(candidate).periods(head_dim), periods, rtol=0.01):
                return RopeSpec(float(candidate))
    return RopeSpec(None, float(periods[0]), float(periods[-1]))


def settle_unknowns(spec: ViTSpec, given: Collection[str]) -> tuple[ViTSpec, tuple[str, ...]]:
    """Fill in what a file of unknown origin cannot tell; returns the spec and a line for each assumption.

    given: names of the properties that the caller states, of which nothing is assumed.
    """
    # The public ImageNet-1k recipe, the one without registers, trains with 1e-6.
    epsilon = 1e-5 if spec.registers else 1e-6
    assumed = {
        "norm_eps": f"norm_eps={epsilon:g}",
        "rope_normalize": f'rope_normalize="{spec.rope.normalize}"',
        "rope_rescale": "no rope_rescale in training",
        "mean": "mean of ImageNet",
        "std": "std of ImageNet",
        "image_size": "image_size=224",
    }
    return replace(spec, norm_eps=epsilon), tuple(line for name, line in assumed.items() if name not in given)
