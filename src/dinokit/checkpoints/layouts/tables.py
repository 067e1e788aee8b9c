"""What the published layouts share: tables of names read in both directions, and queries, keys, values apart or fused.

A line of a table is (our name, their name); `*` stands for one part of a name between dots.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from dinokit.backbones.convnext import STRIDE, ConvNeXtSpec
from dinokit.backbones.network import Spec
from dinokit.backbones.vit import ViTSpec

State = Mapping[str, Tensor]
Table = tuple[tuple[str, str], ...]


def to_ours(state: State, table: Table) -> dict[str, Tensor]:
    """The same tensors under our names; keys that no line fits stay as they are."""
    return _rename(state, tuple((theirs, ours) for ours, theirs in table))


def to_theirs(state: State, table: Table) -> dict[str, Tensor]:
    """The same tensors under their names; keys that no line fits are left out, as the layout has no place for them."""
    lines = tuple(table)
    return {name: value for key, value in state.items() if (name := _translate(key, lines)) is not None}


def _rename(state: State, lines: Table) -> dict[str, Tensor]:
    return {key if (name := _translate(key, lines)) is None else name: value for key, value in state.items()}


def _translate(key: str, lines: Table) -> str | None:
    for before, after in lines:
        found = _pattern(before).fullmatch(key)
        if found:
            return after.replace("*", "{}").format(*found.groups())
    return None


@lru_cache(maxsize=256)
def _pattern(line: str) -> re.Pattern[str]:
    return re.compile(re.escape(line).replace(r"\*", r"([^.]+)"))


def split_qkv(state: State) -> dict[str, Tensor]:
    """Fused `blocks.i.attn.qkv.*` as `blocks.i.attn.q.*`, `.k.*`, `.v.*`: thirds of its rows. Views, no copies."""
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        start, fused, kind = key.partition(".attn.qkv.")
        if fused and kind in ("weight", "bias"):
            found |= {f"{start}.attn.{part}.{kind}": rows for part, rows in zip("qkv", value.chunk(3), strict=True)}
        else:
            found[key] = value
    return found


def join_qkv(state: State) -> dict[str, Tensor]:
    """Undo `split_qkv`. Where the keys alone have no bias, it becomes zero and is masked, as in published files.

    Raises `KeyError` where one of the three is missing otherwise.
    """
    found = {key: value for key, value in state.items() if not _part(key)}
    for start, kind in dict.fromkeys(part for key in state if (part := _part(key))):
        parts = {name: state.get(f"{start}.{name}.{kind}") for name in "qkv"}
        q, k, v = parts["q"], parts["k"], parts["v"]
        if q is None or v is None or (k is None and kind == "weight"):
            raise KeyError(next(f"{start}.{name}.{kind}" for name, value in parts.items() if value is None))
        if k is None:
            k, kept = torch.zeros_like(q), torch.ones(3, len(q))
            kept[1] = 0
            found[f"{start}.qkv.bias_mask"] = kept.flatten()
        found[f"{start}.qkv.{kind}"] = torch.cat([q, k, v])
    return found


def _part(key: str) -> tuple[str, str] | None:
    """("blocks.0.attn", "weight") of `blocks.0.attn.k.weight`; None for what is no part."""
    found = re.fullmatch(r"(blocks\.\d+\.attn)\.[qkv]\.(weight|bias)", key)
    return (found[1], found[2]) if found else None


def with_layer_scale(state: State, spec: ViTSpec) -> dict[str, Tensor]:
    """With factors of one where the network has no LayerScale: layouts that always have it give the same features."""
    added = {}
    if spec.layer_scale is None:
        like = state["norm.weight"]
        names = [f"blocks.{block}.{name}.gamma" for block in range(spec.depth) for name in ("ls1", "ls2")]
        added = {name: torch.ones_like(like) for name in names}
    return {**state, **added}


def vit_obstacle(spec: ViTSpec) -> str | None:
    """What of a ViT neither transformers nor timm can hold."""
    if spec.untied_cls_norm:
        return "a final norm of its own for the class token (untied_cls_norm)"
    if spec.rope.normalize != "separate":
        return f'RoPE coordinates normalised by "{spec.rope.normalize}" (rope_normalize)'
    if spec.rope.base is None:
        return "RoPE periods between a least and a greatest one (rope_min_period, rope_max_period)"
    return None


def common_losses(spec: Spec, state: State) -> list[str]:
    """What neither transformers nor timm keeps, though the features stay the same or very nearly so."""
    if isinstance(spec, ConvNeXtSpec):
        return [f"cells of {spec.patch_size} px" for _ in range(spec.patch_size != STRIDE)]
    lost = ["the norm of local crops, which acts in training alone"] if spec.local_cls_norm else []
    exact = spec.rope.periods(spec.head_dim)
    if not torch.equal(state["rope_embed.periods"].float(), exact):
        lost.append("the rounding of the RoPE periods, which it computes in float32")
    return lost


def short_side(size: Any) -> Any:
    """The shorter of [height, width]; what is no list of whole numbers comes back as it is, to be refused."""
    if isinstance(size, list) and size and all(type(side) is int for side in size):
        return min(size)
    return size


def first_with(keys: Iterable[str], start: str) -> str | None:
    """The first key that begins with `start`."""
    return next((key for key in keys if key.startswith(start)), None)
