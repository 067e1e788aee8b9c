"""The architecture of weights of any origin, read off their keys and shapes, with what is known beside them.

Weights come here under our names, in whatever layout they were stored. What shapes cannot tell is taken from the
files beside them or from the caller, and where neither says it, assumed: each assumption is a line of text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dinokit.backbones.catalog import NETWORKS
from dinokit.backbones.convnext import ConvNeXtSpec
from dinokit.backbones.network import Spec
from dinokit.backbones.rope import RopeSpec
from dinokit.backbones.vit import ViTSpec
from dinokit.checkpoints.layouts.tables import State
from dinokit.checkpoints.spec_check import check_spec
from dinokit.errors import UserError

_VIT, _CONVNEXT, _PERIODS = "patch_embed.proj.weight", "downsample_layers.0.0.weight", "rope_embed.periods"
_HEAD_DIM = 64
"""Of every published ViT but the largest."""
_READ_OFF = ("width", "depth", "ffn_hidden", "registers", "patch_size", "in_channels", "depths", "widths")
"""What the shapes of the weights say by themselves: other files may only agree."""

Known = Mapping[str, Any]
"""Properties by the names that `load_model` takes."""


def spec_from_state(state: State, known: Known) -> tuple[Spec, list[str]]:
    """The network that these weights belong to, and what was assumed. `UserError` if it is none that dinokit has."""
    if _VIT not in state and _CONVNEXT not in state:
        raise _not_ours(f"no {_VIT}")
    try:
        spec, assumed = _read_vit(state, known) if _VIT in state else _read_convnext(state)
    except (KeyError, IndexError, ZeroDivisionError, TypeError, ValueError, OverflowError) as problem:
        raise _not_ours(f"no usable {problem}") from None
    return check_spec(spec, "read off the weights"), [line for name, line in assumed.items() if name not in known]


def _not_ours(why: str) -> UserError:
    what = f"these are not the weights of a DINOv3 vision transformer or ConvNeXt ({why})"
    return UserError(what, "give a file in the layout of Meta, dinokit, transformers or timm")


def check_agreement(spec: Spec, facts: Known) -> None:
    """Raise `UserError` where a file beside the weights says another shape than theirs."""
    for name in _READ_OFF:
        ours, theirs = getattr(spec, name, None), facts.get(name)
        if ours is not None and theirs is not None and theirs not in (ours, [ours, ours]):
            what = f"it says {name} {str(theirs)[:60]}, the weights {ours}"
            raise UserError(what, "these files do not belong together: download or save the model again")


def unread_facts(facts: Known) -> dict[str, Any]:
    """Those of `facts` that shapes do not say."""
    return {name: value for name, value in facts.items() if name not in _READ_OFF}


def complete(state: State, spec: Spec) -> dict[str, Tensor]:
    """With the RoPE periods, which only Meta's layout keeps."""
    if isinstance(spec, ViTSpec) and _PERIODS not in state:
        return {**state, _PERIODS: spec.rope.periods(spec.head_dim)}
    return dict(state)


def _read_vit(state: State, known: Known) -> tuple[ViTSpec, dict[str, str]]:
    width, channels, patch, _ = state[_VIT].shape
    gated = "blocks.0.mlp.w1.weight" in state
    hidden = state[f"blocks.0.mlp.{'w1' if gated else 'fc1'}.weight"].shape[0]
    depth = len({key.split(".")[1] for key in state if key.startswith("blocks.")})
    registers = state["storage_tokens"].shape[1] if "storage_tokens" in state else 0
    heads, rope, assumed = _read_heads(state, known, (width, depth, hidden))
    # The public ImageNet-1k recipe, the one without registers, trains with 1e-6.
    epsilon = 1e-5 if registers else 1e-6
    spec = ViTSpec(
        width=width,
        depth=depth,
        heads=heads,
        ffn_hidden=hidden,
        ffn="swiglu" if gated else "mlp",
        patch_size=patch,
        in_channels=channels,
        registers=registers,
        qkv_bias="blocks.0.attn.qkv.bias" in state,
        mask_k_bias="blocks.0.attn.qkv.bias_mask" in state,
        norm_eps=epsilon,
        layer_scale=1e-5 if "blocks.0.ls1.gamma" in state else None,
        untied_cls_norm="cls_norm.weight" in state,
        local_cls_norm="local_cls_norm.weight" in state,
        rope=rope,
    )
    assumed |= {
        "norm_eps": f"norm_eps={epsilon:g}",
        "rope_normalize": f'rope_normalize="{rope.normalize}"',
        "rope_rescale": "no rope_rescale in training",
    }
    return spec, assumed | _PICTURES


_PICTURES = {"mean": "mean of ImageNet", "std": "std of ImageNet", "image_size": "image_size=224"}


def _read_heads(state: State, known: Known, shape: tuple[int, int, int]) -> tuple[int, RopeSpec, dict[str, str]]:
    """Number of heads and RoPE: from the periods, else from what is known, else those of the network of this shape."""
    width = shape[0]
    if _PERIODS in state:
        head_dim = 4 * len(state[_PERIODS])
        return width // head_dim, _read_rope(state[_PERIODS].detach().float(), head_dim), {}
    named = [spec for spec in NETWORKS.values() if isinstance(spec, ViTSpec)]
    alike = [spec.heads for spec in named if (spec.width, spec.depth, spec.ffn_hidden) == shape]
    heads = known.get("heads", alike[0] if alike else max(width // _HEAD_DIM, 1))
    return heads, RopeSpec(), {"heads": f"heads={heads}", "rope_base": "rope_base=100"}


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


def _read_convnext(state: State) -> tuple[ConvNeXtSpec, dict[str, str]]:
    blocks = {found.groups() for key in state if (found := re.fullmatch(r"stages\.(\d)\.(\d+)\.gamma", key))}
    depths = [sum(stage == str(index) for stage, _ in blocks) for index in range(4)]
    widths = [state[f"stages.{index}.0.gamma"].shape[0] for index in range(4)]
    spec = ConvNeXtSpec(_four(depths), _four(widths), in_channels=state[_CONVNEXT].shape[1])
    return spec, {"norm_eps": f"norm_eps={spec.norm_eps:g}", **_PICTURES}


def _four(numbers: list[int]) -> tuple[int, int, int, int]:
    first, second, third, fourth = numbers
    return first, second, third, fourth
