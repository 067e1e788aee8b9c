"""Constants folded into the products around them, and products frozen for one device and number format."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from dinokit.inference.linear import Product, pack


def freeze(product: Product, device: torch.device, dtype: torch.dtype, packed: bool) -> Product:
    """A copy of `product` on `device` in `dtype`, in oneDNN's layout if `packed`."""
    weight, bias = (t.detach().to(device, dtype, copy=True) for t in (product.weight, product.bias))
    product = replace(product, weight=weight, bias=bias)
    return pack(product) if packed else product


def fold_norm(linear: nn.Linear, norm: nn.LayerNorm, bias_mask: Tensor | None = None) -> Product:
    """linear(n * scale + shift) as a product of n."""
    weight = linear.weight.float()
    bias = bias_of(linear, weight) if bias_mask is None else bias_of(linear, weight) * bias_mask.float()
    return Product(weight * norm.weight.float(), bias + weight @ norm.bias.float())


def fold_scale(linear: nn.Linear, gamma: Tensor | None) -> Product:
    """gamma * linear(x) as a product of x."""
    weight = linear.weight.float()
    bias = bias_of(linear, weight)
    return Product(weight, bias) if gamma is None else Product(weight * gamma[:, None], bias * gamma)


def bias_of(layer: nn.Linear | nn.Conv2d, weight: Tensor) -> Tensor:
    """The layer's bias in float32, or zeros [len(weight)]."""
    return weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.float()
