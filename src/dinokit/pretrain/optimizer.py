"""AdamW as pretraining uses it: layer-wise learning rates, what is decayed, clipping part by part.

Parameters with equal multipliers share one group, so a ViT has some dozens of groups and not hundreds.
Default: matrices decay; vectors (biases, norms, LayerScale) and the cls, storage and mask tokens do not. A
token is an input, not a map: pulling it to zero regularises nothing (BEiT, MAE and DeiT leave it out too).
The published code goes by name, so tokens and ConvNeXt's downsampling norms decay: `published_decay=True`.
Sources: BEiT (arXiv 2106.08254, layer decay), DINOv3 (arXiv 2508.10104, section 3.2), AdamW (1711.05101).
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

_FIRST_LAYER = ("patch_embed", "cls_token", "storage_tokens", "mask_token", "pos_embed")
_TOKENS = ("cls_token", "storage_tokens", "mask_token", "pos_embed")
_BLOCK = re.compile(r"(?:^|\.)blocks\.(\d+)\.")


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    depth: int,
    *,
    layer_decay: float = 1.0,
    patch_embed_multiplier: float = 1.0,
    published_decay: bool = False,
) -> list[dict[str, Any]]:
    """Groups for `build_optimizer` with keys params, names, lr_multiplier, wd_multiplier, is_last_layer.

    depth: blocks of the ViT (0 for networks without `blocks`: no layer decay; heads may be chained to a
    backbone in one call). Learning rates fall by `layer_decay` per block from the last to the first; that of
    the patch embedding is also times `patch_embed_multiplier`. Frozen parameters are left out.
    """
    groups: dict[tuple[float, float, bool], dict[str, Any]] = {}
    for name, parameter in named_parameters:
        if not parameter.requires_grad:
            continue
        rate = layer_decay ** (depth + 1 - _layer(name, depth)) if depth > 0 else 1.0
        if "patch_embed" in name:
            rate *= patch_embed_multiplier
        decayed = _decays_by_name(name) if published_decay else _decays(name, parameter)
        key = (rate, float(decayed), "last_layer" in name)
        empty = {"lr_multiplier": key[0], "wd_multiplier": key[1], "is_last_layer": key[2]}
        group = groups.setdefault(key, {"params": [], "names": [], **empty})
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def build_optimizer(
    groups: list[dict[str, Any]], *, betas: tuple[float, float] = (0.9, 0.999), epsilon: float = 1e-8
) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`, fused where the device has it; rates are 0 until `apply_schedule`."""
    parameters = [parameter for group in groups for parameter in group["params"]]
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=epsilon, weight_decay=0.0, fused=fused)


def apply_schedule(optimizer: torch.optim.Optimizer, lr: float, weight_decay: float, last_layer_lr: float) -> None:
    """Set this step's learning rate and weight decay in every group, times its multipliers."""
    for group in optimizer.param_groups:
        group["lr"] = (last_layer_lr if group["is_last_layer"] else lr) * group["lr_multiplier"]
        group["weight_decay"] = weight_decay * group["wd_multiplier"]


def clip_gradients(modules: Mapping[str, nn.Module], max_norm: float) -> dict[str, float]:
    """Clip each module's gradients on its own to `max_norm`; returns the L2 norms before clipping, by name.

    A module without gradients has norm 0. A norm that is not finite is returned as it is: stop the step then.
    """
    norms: list[Tensor] = [
        nn.utils.clip_grad_norm_(module.parameters(), max_norm).float().cpu() for module in modules.values()
    ]
    return {name: float(norm) for name, norm in zip(modules, norms, strict=True)}


def _layer(name: str, depth: int) -> int:
    """0 for what feeds the first block, i + 1 for block i, depth + 1 for everything after the blocks."""
    block = _BLOCK.search(name)
    if block:
        return int(block.group(1)) + 1
    return 0 if any(part in name for part in _FIRST_LAYER) else depth + 1


def _decays(name: str, parameter: Tensor) -> bool:
    return parameter.ndim > 1 and not any(token in name for token in _TOKENS)


def _decays_by_name(name: str) -> bool:
    return not (name.endswith("bias") or "norm" in name or "gamma" in name)
