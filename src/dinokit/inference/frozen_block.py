"""A transformer block with everything constant folded into its four products."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinokit.backbones.rope import Table
from dinokit.backbones.vit import MLP, Block, SelfAttention, SwiGLU, ViTSpec
from dinokit.inference.attention import Form, attend, rotate, to_pairs
from dinokit.inference.folding import fold_norm, fold_scale
from dinokit.inference.linear import Product, in_blocks
from dinokit.inference.shared_keys import Exchange, only_own


@dataclass(frozen=True)
class Shape:
    """How the tokens of a batch lie in the rows of a matrix: picture after picture."""

    batch: int
    tokens: int
    """Tokens of a picture, whichever thread works on them."""
    length: int
    """Rows of a picture here: its tokens and padding, or the part of them that is this thread's."""

    @property
    def rows(self) -> int:
        """Rows of all pictures."""
        return self.batch * self.length


@dataclass(frozen=True)
class FrozenBlock:
    """One transformer block: x -> x + attention(norm(x)) -> x + mlp(norm(x))."""

    spec: ViTSpec
    qkv: Product
    out: Product
    up: Product
    down: Product

    def __call__(self, x: Tensor, table: Table, form: Form, shape: Shape, exchange: Exchange = only_own) -> Tensor:
        """x [N, D] holds the tokens of the pictures one after the other and padding; it is overwritten."""
        mixed = self._attention(x, table, form, shape, exchange)
        return in_blocks(lambda rows, part: self._mlp(self.out(part, rows)), x, mixed)

    def _attention(self, x: Tensor, table: Table, form: Form, shape: Shape, exchange: Exchange) -> Tensor:
        qkv = in_blocks(lambda rows: self.qkv(self._norm(rows)), x)[: shape.rows]
        qkv = qkv.view(shape.batch, shape.length, 3, self.spec.heads, -1)
        qkv = qkv.permute(2, 0, 3, 1, 4)  # [B, T, 3, heads, d] -> [3, B, heads, T, d]
        q, k = rotate(qkv[:2], table)
        k, v = exchange(k, qkv[2])
        mixed = torch.empty_like(x) if len(x) == shape.rows else torch.zeros_like(x)
        out = mixed[: shape.rows].view(shape.batch, shape.length, self.spec.heads, -1)
        attend(q, k, v, form, shape.tokens, out.transpose(1, 2))
        return mixed

    def _mlp(self, x: Tensor) -> Tensor:
        hidden = self.up(self._norm(x))
        if self.spec.ffn == "swiglu":
            gate, value = hidden.chunk(2, dim=-1)
            hidden = F.silu(gate).mul_(value)
        return self.down(hidden, x)

    def _norm(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], None, None, self.spec.norm_eps)


def fold_block(block: Block, spec: ViTSpec, pairs: bool) -> Iterator[Product]:
    """The four products of a block in float32, one after the other: qkv, output, up, down.

    pairs: whether elements that RoPE turns together lie side by side.
    """
    yield _fold_qkv(block.attn, block.norm1, spec, pairs)
    yield fold_scale(block.attn.proj, block.ls1.gamma.float() if block.scaled else None)
    last_scale = block.ls2.gamma.float() if block.scaled else None
    if isinstance(block.mlp, SwiGLU):
        halves = [fold_norm(linear, block.norm2) for linear in (block.mlp.w1, block.mlp.w2)]  # gate, value
        yield Product(torch.cat([half.weight for half in halves]), torch.cat([half.bias for half in halves]))
        yield fold_scale(block.mlp.w3, last_scale)
    else:
        assert isinstance(block.mlp, MLP)
        yield replace(fold_norm(block.mlp.fc1, block.norm2), gelu=True)
        yield fold_scale(block.mlp.fc2, last_scale)


def _fold_qkv(attention: SelfAttention, norm: nn.LayerNorm, spec: ViTSpec, pairs: bool) -> Product:
    """Also masks the bias of the keys, scales the queries by 1 / sqrt(d) and orders elements for RoPE."""
    linear = attention.qkv
    product = fold_norm(linear, norm, linear._buffers.get("bias_mask"))
    scale = torch.ones_like(product.bias)
    scale[: spec.width] = spec.head_dim**-0.5
    order = torch.arange(len(scale), device=scale.device)
    order = torch.cat([to_pairs(order[: 2 * spec.width], 2 * spec.heads), order[2 * spec.width :]]) if pairs else order
    return Product((product.weight * scale[:, None])[order], (product.bias * scale)[order])
