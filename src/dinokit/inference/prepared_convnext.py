"""A prepared, frozen copy of a ConvNeXt's weights that computes the same features faster.

Maps lie channels-last throughout, so that norms and linear maps work on rows and nothing is permuted. Norm scale and
shift are folded into the product that follows, the layer scale into the last product of a block; the convolutions
whose windows do not overlap are products. `backbones/convnext.py` is the readable reference that this file equals.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinokit.backbones.convnext import ConvNeXt, ConvNeXtBlock, to_cells
from dinokit.backbones.features import Features, Grid
from dinokit.inference.folding import bias_of, fold_norm, fold_scale, freeze
from dinokit.inference.linear import Product, in_blocks, packing_pays, pad_rows
from dinokit.inference.side_by_side import run_side_by_side, split_batch

_TOKEN_PIXELS = 14 * 14
"""Pixels that weigh as much, in a ConvNeXt, as one token of a ViT."""


@dataclass(frozen=True)
class FrozenBlock:
    """x -> x + mlp(norm(depthwise convolution of x))."""

    convolution: nn.Conv2d
    up: Product
    down: Product
    norm_eps: float

    def __call__(self, x: Tensor) -> Tensor:
        """x [B, h, w, C]; it may be overwritten."""
        mixed = self.convolution(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        rows, count = pad_rows(x.flatten(0, 2)), x.shape[:3].numel()
        rows = in_blocks(self._mlp, rows, pad_rows(mixed.flatten(0, 2)))
        return rows[:count].view(x.shape)

    def _mlp(self, x: Tensor, mixed: Tensor) -> Tensor:
        return self.down(self.up(F.layer_norm(mixed, mixed.shape[-1:], None, None, self.norm_eps)), x)


@dataclass(frozen=True)
class FrozenDownsample:
    """Norm, then a convolution of 2 x 2 cells onto one."""

    product: Product
    norm_eps: float

    def __call__(self, x: Tensor) -> Tensor:
        """[B, h, w, C] -> [B, h/2, w/2, D]; an odd last row or column is left out."""
        batch, rows, cols, width = x.shape
        rows, cols = rows // 2, cols // 2
        normed = F.layer_norm(x, (width,), None, None, self.norm_eps)[:, : 2 * rows, : 2 * cols]
        cells = normed.reshape(batch, rows, 2, cols, 2, width).transpose(2, 3)  # [B, h/2, w/2, 2, 2, C]
        found = in_blocks(self.product, pad_rows(cells.reshape(batch * rows * cols, -1)))
        return found[: batch * rows * cols].view(batch, rows, cols, -1)


@dataclass(frozen=True)
class FrozenStem:
    """A convolution of 4 x 4 pixels onto one cell, then a norm with scale and shift."""

    product: Product
    scale: Tensor
    shift: Tensor
    norm_eps: float

    def __call__(self, pictures: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, H/4, W/4, D]."""
        batch, channels = pictures.shape[:2]
        rows, cols = (side // 4 for side in pictures.shape[2:])
        cells = pictures[..., : rows * 4, : cols * 4].reshape(batch, channels, rows, 4, cols, 4)
        pixels = cells.permute(0, 2, 4, 1, 3, 5).flatten(0, 2).flatten(1)  # [B*h*w, C*4*4]
        found = in_blocks(self.product, pad_rows(pixels))[: len(pixels)]
        normed = F.layer_norm(found, found.shape[-1:], self.scale, self.shift, self.norm_eps)
        return normed.view(batch, rows, cols, -1)


FrozenStep = FrozenStem | FrozenDownsample


class PreparedConvNeXt:
    """Calls give `Features` in float32, with the grid, of normalised pictures [B, C, H, W]."""

    def __init__(self, network: ConvNeXt, device: torch.device, dtype: torch.dtype) -> None:
        self.spec, self.device, self.dtype = network.spec, device, dtype
        self.packed = packing_pays(device, dtype)
        self._freeze = partial(freeze, device=device, dtype=dtype, packed=self.packed)
        stem, *steps = (cast(nn.Sequential, step) for step in network.downsample_layers)
        self.steps = [self._freeze_stem(*stem), *(self._freeze_downsample(*step) for step in steps)]
        stages = (cast(nn.Sequential, stage) for stage in network.stages)
        self.stages = [[self._freeze_block(cast(ConvNeXtBlock, block)) for block in stage] for stage in stages]
        self.norm = deepcopy(network.norm).requires_grad_(False).to(device).float()

    def _freeze_stem(self, convolution: nn.Conv2d, norm: nn.LayerNorm) -> FrozenStep:
        weight = convolution.weight.flatten(1).float()
        product = self._freeze(Product(weight, bias_of(convolution, weight)))
        scale, shift = (t.detach().to(self.device, self.dtype) for t in (norm.weight, norm.bias))
        return FrozenStem(product, scale, shift, self.spec.norm_eps)

    def _freeze_downsample(self, norm: nn.LayerNorm, convolution: nn.Conv2d) -> FrozenStep:
        weight = convolution.weight.float().permute(0, 2, 3, 1)  # [D, C, 2, 2] -> [D, 2, 2, C]
        bias = bias_of(convolution, weight) + (weight * norm.bias.float()).sum((1, 2, 3))
        product = self._freeze(Product((weight * norm.weight.float()).flatten(1), bias))
        return FrozenDownsample(product, self.spec.norm_eps)

    def _freeze_block(self, block: ConvNeXtBlock) -> FrozenBlock:
        convolution = deepcopy(block.dwconv).requires_grad_(False).to(self.device, self.dtype)
        up = self._freeze(replace(fold_norm(block.pwconv1, block.norm), gelu=True))
        down = self._freeze(fold_scale(block.pwconv2, block.gamma.float()))
        return FrozenBlock(convolution, up, down, self.spec.norm_eps)

    def __call__(self, pictures: Tensor) -> Features:
        return self.intermediate(pictures, [-1], norm=True)[0]

    @torch.inference_mode(False)  # whose tensors the threads, which are not in it, could not write
    @torch.no_grad()
    def intermediate(self, pictures: Tensor, layers: Sequence[int], norm: bool) -> list[Features]:
        """Features after the given stages, in the order asked for, the last through the final norm or as it is."""
        height, width = pictures.shape[2:]
        with torch.autocast(self.device.type, enabled=False):
            pieces = split_batch(pictures, height * width // _TOKEN_PIXELS)
            found = run_side_by_side(partial(self._run, layers=layers, norm=norm), pieces)
        return found[0] if len(found) == 1 else [Features.join(parts) for parts in zip(*found, strict=True)]

    @torch.no_grad()  # which a thread has to say for itself
    def _run(self, pictures: Tensor, layers: Sequence[int], norm: bool) -> list[Features]:
        wanted = [layer % self.spec.depth for layer in layers]
        x, found = pictures.to(self.dtype), {}
        for index, (step, stage) in enumerate(zip(self.steps, self.stages, strict=True)):
            if index > max(wanted, default=-1):
                break
            x = step(x)
            for block in stage:
                x = block(x)
            if index in wanted:
                found[index] = self._features(x.float(), pictures, norm and index == self.spec.depth - 1)
        return [found[layer] for layer in wanted]

    def _features(self, x: Tensor, pictures: Tensor, norm: bool) -> Features:
        cls = x.mean(dim=(1, 2))
        patches = to_cells(x.permute(0, 3, 1, 2), pictures, self.spec.patch_size).permute(0, 2, 3, 1)
        cls, patches = (self.norm(cls), self.norm(patches)) if norm else (cls, patches)
        batch, _, height, width = pictures.shape
        grid = Grid(patches.shape[1], patches.shape[2], ((height, width),) * batch)
        return Features(cls, cls.new_empty(batch, 0, cls.shape[1]), patches, grid)
