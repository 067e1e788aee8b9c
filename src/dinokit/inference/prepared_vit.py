"""A prepared, frozen copy of a vision transformer's weights that computes the same features faster.

Whatever is constant is folded into the products around it: norm scale and shift into the next one, LayerScale and
the masked key bias into their own, the softmax scale into the queries. The residual stream and all products are in
the compute dtype, the final norm in float32. `backbones/vit.py` is the readable reference that this file equals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinokit.backbones.features import Features, Grid
from dinokit.backbones.rope import Table
from dinokit.backbones.vit import MLP, Block, PatchEmbed, SelfAttention, SwiGLU, VisionTransformer, ViTSpec
from dinokit.inference.attention import (
    Form,
    attend,
    choose_form,
    pad_tokens,
    rotate,
    rotates_pairs,
    to_pairs,
)
from dinokit.inference.folding import bias_of, fold_norm, fold_scale, freeze
from dinokit.inference.linear import Product, in_blocks, packing_pays, pad_rows
from dinokit.inference.side_by_side import run_side_by_side, split_batch

_TABLES_KEPT = 8


@dataclass(frozen=True)
class Shape:
    """How the tokens of a batch lie in the rows of a matrix: picture after picture."""

    batch: int
    tokens: int
    """Tokens of a picture."""
    length: int
    """Rows of a picture: its tokens and padding."""

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

    def __call__(self, x: Tensor, table: Table, form: Form, shape: Shape) -> Tensor:
        """x [N, D] holds the tokens of the pictures one after the other and padding; it is overwritten."""
        mixed = self._attention(x, table, form, shape)
        return in_blocks(lambda rows, part: self._mlp(self.out(part, rows)), x, mixed)

    def _attention(self, x: Tensor, table: Table, form: Form, shape: Shape) -> Tensor:
        qkv = in_blocks(lambda rows: self.qkv(self._norm(rows)), x)[: shape.rows]
        qkv = qkv.view(shape.batch, shape.length, 3, self.spec.heads, -1)
        qkv = qkv.permute(2, 0, 3, 1, 4)  # [B, T, 3, heads, d] -> [3, B, heads, T, d]
        q, k = rotate(qkv[:2], table)
        mixed = torch.empty_like(x) if len(x) == shape.rows else torch.zeros_like(x)
        out = mixed[: shape.rows].view(shape.batch, shape.length, self.spec.heads, -1)
        attend(q, k, qkv[2], form, shape.tokens, out.transpose(1, 2))
        return mixed

    def _mlp(self, x: Tensor) -> Tensor:
        hidden = self.up(self._norm(x))
        if self.spec.ffn == "swiglu":
            gate, value = hidden.chunk(2, dim=-1)
            hidden = F.silu(gate).mul_(value)
        return self.down(hidden, x)

    def _norm(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], None, None, self.spec.norm_eps)


class PreparedViT:
    """Calls give `Features` in float32, with the grid, of normalised pictures [B, C, H, W]."""

    def __init__(self, network: VisionTransformer, device: torch.device, dtype: torch.dtype) -> None:
        self.spec, self.device, self.dtype = network.spec, device, dtype
        self.packed = packing_pays(device, dtype)
        self._freeze = partial(freeze, device=device, dtype=dtype, packed=self.packed)
        self.patch_embed = self._freeze(_fold_patches(network.patch_embed))
        registers = [network.storage_tokens[0]] if self.spec.registers else []
        self.prefix = torch.cat([network.cls_token[0], *registers]).detach().to(device, dtype)  # [1 + R, D]
        self.blocks = [self._freeze_block(block) for block in network.blocks]  # type: ignore[arg-type]
        cls_norm = network.cls_norm if self.spec.untied_cls_norm else network.norm
        self.norms = [deepcopy(norm).requires_grad_(False).to(device).float() for norm in (cls_norm, network.norm)]
        self.rope = deepcopy(network.rope_embed).eval().to(device).float()
        self._tables: dict[tuple[int, int, int], Table] = {}

    def _freeze_block(self, block: Block) -> FrozenBlock:
        pairs = rotates_pairs(self.device, self.dtype)
        return FrozenBlock(self.spec, *map(self._freeze, _fold_block(block, self.spec, pairs)))

    def __call__(self, pictures: Tensor) -> Features:
        return self.intermediate(pictures, [-1], norm=True)[0]

    @torch.no_grad()
    def intermediate(self, pictures: Tensor, layers: Sequence[int], norm: bool) -> list[Features]:
        """Features after the given blocks, in the order asked for, through the final norm or as they are.

        The format is that of this copy, whatever `torch.autocast` is around (it would not reach the threads).
        """
        patch = self.spec.patch_size
        rows, cols = pictures.shape[2] // patch, pictures.shape[3] // patch
        with torch.autocast(self.device.type, enabled=False):
            pieces = split_batch(pictures, len(self.prefix) + rows * cols)
            form = self._choose_form(pieces[0], rows, cols)
            found = run_side_by_side(partial(self._run, layers=layers, norm=norm, form=form), pieces)
        return found[0] if len(found) == 1 else [Features.join(parts) for parts in zip(*found, strict=True)]

    @torch.no_grad()  # which a thread has to say for itself
    def _run(self, pictures: Tensor, layers: Sequence[int], norm: bool, form: Form) -> list[Features]:
        wanted = [layer % self.spec.depth for layer in layers]
        rows, cols = (side // self.spec.patch_size for side in pictures.shape[2:])
        x, shape = self._lay_out(self._embed(pictures), form)
        table = self._table(rows, cols, shape.length)
        found: dict[int, Features] = {}
        for index, block in enumerate(self.blocks[: max(wanted, default=-1) + 1]):
            x = block(x, table, form, shape)
            if index in wanted:
                tokens = x[: shape.rows].view(shape.batch, shape.length, -1)[:, : shape.tokens]
                found[index] = self._features(tokens.float(), pictures, norm)
        return [found[layer] for layer in wanted]

    @staticmethod
    def _lay_out(x: Tensor, form: Form) -> tuple[Tensor, Shape]:
        """Tokens [B, T, D] as padded rows [N, D]."""
        padded = pad_tokens(x) if form == "sdpa padded" else x
        return pad_rows(padded.flatten(0, 1)), Shape(len(x), x.shape[1], padded.shape[1])

    def _choose_form(self, pictures: Tensor, rows: int, cols: int) -> Form:
        shape = (len(pictures), len(self.prefix) + rows * cols, self.spec.width)
        return choose_form(shape, self.spec.heads, self.dtype, self.device, partial(self._try_form, pictures))

    def _try_form(self, pictures: Tensor) -> Callable[[Form], object]:
        """What one block does with two of the pictures, in a given form."""
        rows, cols = (side // self.spec.patch_size for side in pictures.shape[2:])
        x = self._embed(pictures[:2])

        def run(form: Form) -> None:
            tokens, shape = self._lay_out(x.clone(), form)
            self.blocks[0](tokens, self._table(rows, cols, shape.length), form, shape)

        return run

    def _embed(self, pictures: Tensor) -> Tensor:
        (batch, channels), patch = pictures.shape[:2], self.spec.patch_size
        rows, cols = (side // patch for side in pictures.shape[2:])
        whole = pictures[..., : rows * patch, : cols * patch].to(self.dtype)
        cells = whole.reshape(batch, channels, rows, patch, cols, patch)
        pixels = cells.permute(0, 2, 4, 1, 3, 5).flatten(0, 2).flatten(1)  # [B*h*w, C*p*p]
        patches = in_blocks(self.patch_embed, pad_rows(pixels))[: len(pixels)].view(batch, rows * cols, -1)
        return torch.cat([self.prefix.expand(batch, -1, -1), patches], dim=1)  # [B, 1 + R + h*w, D]

    def _table(self, rows: int, cols: int, length: int) -> Table:
        """Half of the cosine and sine columns (the other half repeats them): [length, d/2] each."""
        key = (rows, cols, length)
        table = self._tables.get(key)
        if table is None:
            cosine, sine = self.rope(rows, cols, len(self.prefix))
            half, padding = cosine.shape[1] // 2, (0, 0, 0, length - len(cosine))
            cosine, sine = F.pad(cosine[:, :half], padding, value=1), F.pad(sine[:, :half], padding)
            table = (cosine.to(self.dtype).contiguous(), sine.to(self.dtype).contiguous())
            if len(self._tables) >= _TABLES_KEPT:
                self._tables.clear()
            self._tables[key] = table
        return table

    def _features(self, x: Tensor, pictures: Tensor, norm: bool) -> Features:
        batch, _, height, width = pictures.shape
        rows, cols = height // self.spec.patch_size, width // self.spec.patch_size
        prefix, patches = x[:, : len(self.prefix)], x[:, len(self.prefix) :]
        if norm:
            prefix, patches = self.norms[0](prefix), self.norms[1](patches)
        else:
            prefix, patches = prefix.clone(), patches.clone()
        grid = Grid(rows, cols, ((height, width),) * batch)
        return Features(prefix[:, 0], prefix[:, 1:], patches.unflatten(1, (rows, cols)), grid)


def _fold_patches(embed: PatchEmbed) -> Product:
    weight = embed.proj.weight.flatten(1).float()
    return Product(weight, bias_of(embed.proj, weight))


def _fold_block(block: Block, spec: ViTSpec, pairs: bool) -> tuple[Product, Product, Product, Product]:
    """The four products of a block in float32: qkv, output, up, down."""
    attention_scale = block.ls1.gamma.float() if block.scaled else None
    mlp_scale = block.ls2.gamma.float() if block.scaled else None
    qkv, out = _fold_qkv(block.attn, block.norm1, spec, pairs), fold_scale(block.attn.proj, attention_scale)
    if isinstance(block.mlp, SwiGLU):
        gate, value = fold_norm(block.mlp.w1, block.norm2), fold_norm(block.mlp.w2, block.norm2)
        up = Product(torch.cat([gate.weight, value.weight]), torch.cat([gate.bias, value.bias]))
        return qkv, out, up, fold_scale(block.mlp.w3, mlp_scale)
    assert isinstance(block.mlp, MLP)
    up = replace(fold_norm(block.mlp.fc1, block.norm2), gelu=True)
    return qkv, out, up, fold_scale(block.mlp.fc2, mlp_scale)


def _fold_qkv(attention: SelfAttention, norm: nn.LayerNorm, spec: ViTSpec, pairs: bool) -> Product:
    """Also masks the bias of the keys, scales the queries by 1 / sqrt(d) and orders elements for RoPE."""
    linear = attention.qkv
    product = fold_norm(linear, norm, linear._buffers.get("bias_mask"))
    scale = torch.ones_like(product.bias)
    scale[: spec.width] = spec.head_dim**-0.5
    order = torch.arange(len(scale), device=scale.device)
    order = torch.cat([to_pairs(order[: 2 * spec.width], 2 * spec.heads), order[2 * spec.width :]]) if pairs else order
    return Product((product.weight * scale[:, None])[order], (product.bias * scale)[order])
