"""A prepared, frozen copy of a vision transformer's weights that computes the same features faster.

Whatever is constant is folded into the products around it: norm scale and shift into the next one, LayerScale and
the masked key bias into their own, the softmax scale into the queries. The residual stream and all products are in
the compute dtype, the final norm in float32. `backbones/vit.py` is the readable reference that this file equals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from dinokit.backbones.features import Features, Grid
from dinokit.backbones.rope import Table
from dinokit.backbones.vit import Block, PatchEmbed, VisionTransformer
from dinokit.inference.attention import Form, choose_form, pad_tokens, padded_length, rotates_pairs
from dinokit.inference.folding import bias_of, freeze
from dinokit.inference.frozen_block import FrozenBlock, Shape, fold_block
from dinokit.inference.linear import Product, in_blocks, packing_pays, pad_rows
from dinokit.inference.shared_keys import Exchange, SharedKeys, only_own
from dinokit.inference.side_by_side import run_all_at_once, run_side_by_side, split_batch, split_tokens

_TABLES_KEPT = 8
_TRIAL_SIDE = 1024
"""Pixels of the pictures on which the form of attention is chosen, at most."""


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
        return FrozenBlock(self.spec, *map(self._freeze, fold_block(block, self.spec, pairs)))

    def __call__(self, pictures: Tensor) -> Features:
        return self.intermediate(pictures, [-1], norm=True)[0]

    @torch.inference_mode(False)  # whose tensors the threads, which are not in it, could not write
    @torch.no_grad()
    def intermediate(self, pictures: Tensor, layers: Sequence[int], norm: bool) -> list[Features]:
        """Features after the given blocks, in the order asked for, through the final norm or as they are.

        The format is that of this copy, whatever `torch.autocast` is around (it would not reach the threads).
        """
        with torch.autocast(self.device.type, enabled=False):
            wanted = [layer % self.spec.depth for layer in layers]
            pieces = split_batch(pictures, self._tokens(pictures))
            form = self._choose_form(pieces[0])
            if len(pieces) == 1:
                tokens = self._run_together(pictures, wanted, form)
            else:
                found = run_side_by_side(partial(self._run_alone, wanted=wanted, form=form), pieces)
                tokens = [torch.cat(parts) for parts in zip(*found, strict=True)]
            return [self._features(x, pictures, norm) for x in tokens]

    def _run_alone(self, pictures: Tensor, wanted: Sequence[int], form: Form) -> list[Tensor]:
        """Tokens [B, T, D] after the blocks `wanted`, by this thread alone."""
        x = self._embed(pictures)
        padded = pad_tokens(x) if form == "sdpa padded" else x
        shape = Shape(len(x), x.shape[1], padded.shape[1])
        table = self._table(pictures, shape.length)
        return self._blocks(padded, table, shape, wanted, form, only_own)

    def _run_together(self, pictures: Tensor, wanted: Sequence[int], form: Form) -> list[Tensor]:
        """The same by all threads, each with a part of the tokens of every picture."""
        x = self._embed(pictures)
        parts = split_tokens(x)
        if len(parts) == 1:
            return self._run_alone(pictures, wanted, form)
        batch, tokens, _ = x.shape
        length = padded_length(tokens) if form == "sdpa padded" else tokens
        shared = SharedKeys.make((batch, self.spec.heads, length, self.spec.head_dim), len(parts), self.dtype)
        cosine, sine = self._table(pictures, tokens)

        def work(part: slice) -> list[Tensor]:
            own, table = x[:, part], (cosine[part], sine[part])
            with shared.meeting_kept():
                shape = Shape(batch, tokens, own.shape[1])
                return self._blocks(own, table, shape, wanted, form, shared.exchange(part.start))

        found = run_all_at_once(work, parts)
        return [torch.cat(chunks, dim=1) for chunks in zip(*found, strict=True)]

    @torch.no_grad()  # which a thread has to say for itself
    def _blocks(
        self, x: Tensor, table: Table, shape: Shape, wanted: Sequence[int], form: Form, exchange: Exchange
    ) -> list[Tensor]:
        """Tokens x [B, t, D] after the blocks `wanted`, without padding, in float32."""
        rows, found, last = pad_rows(x.flatten(0, 1)), {}, max(wanted, default=-1)
        for index, block in enumerate(self.blocks[: last + 1]):
            rows = block(rows, table, form, shape, exchange)
            if index in wanted:
                tokens = rows[: shape.rows].view(shape.batch, shape.length, -1)[:, : shape.tokens]
                found[index] = tokens.to(torch.float32, copy=index < last)  # later blocks overwrite the rows
        return [found[layer] for layer in wanted]

    def _choose_form(self, pictures: Tensor) -> Form:
        trial = pictures[:2, :, :_TRIAL_SIDE, :_TRIAL_SIDE]
        shape = (len(pictures), self._tokens(trial), self.spec.width)
        return choose_form(shape, self.spec.heads, self.dtype, self.device, partial(self._try_form, trial))

    def _try_form(self, pictures: Tensor) -> Callable[[Form], object]:
        """What one block does with the pictures, in a given form."""
        x = self._embed(pictures)

        def run(form: Form) -> None:
            padded = pad_tokens(x) if form == "sdpa padded" else x
            shape = Shape(len(x), x.shape[1], padded.shape[1])
            self.blocks[0](pad_rows(padded.flatten(0, 1)).clone(), self._table(pictures, shape.length), form, shape)

        return run

    def _grid(self, pictures: Tensor) -> tuple[int, int]:
        return pictures.shape[2] // self.spec.patch_size, pictures.shape[3] // self.spec.patch_size

    def _tokens(self, pictures: Tensor) -> int:
        rows, cols = self._grid(pictures)
        return len(self.prefix) + rows * cols

    def _embed(self, pictures: Tensor) -> Tensor:
        (batch, channels), patch = pictures.shape[:2], self.spec.patch_size
        rows, cols = self._grid(pictures)
        whole = pictures[..., : rows * patch, : cols * patch].to(self.dtype)
        cells = whole.reshape(batch, channels, rows, patch, cols, patch)
        pixels = cells.permute(0, 2, 4, 1, 3, 5).flatten(0, 2).flatten(1)  # [B*h*w, C*p*p]
        patches = in_blocks(self.patch_embed, pad_rows(pixels))[: len(pixels)].view(batch, rows * cols, -1)
        return torch.cat([self.prefix.expand(batch, -1, -1), patches], dim=1)  # [B, 1 + R + h*w, D]

    def _table(self, pictures: Tensor, length: int) -> Table:
        """Half of the cosine and sine columns (the other half repeats them): [length, d/2] each."""
        rows, cols = self._grid(pictures)
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
        """Tokens [B, T, D] -> their features, each part in memory of its own."""
        batch, _, height, width = pictures.shape
        rows, cols = self._grid(pictures)
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
