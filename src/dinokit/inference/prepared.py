"""A prepared, frozen copy of a network's weights that computes the same features faster."""

from __future__ import annotations

import torch

from dinokit.backbones.network import Network
from dinokit.backbones.vit import VisionTransformer
from dinokit.inference.prepared_convnext import PreparedConvNeXt
from dinokit.inference.prepared_vit import PreparedViT

Prepared = PreparedViT | PreparedConvNeXt
"""Calls give `Features` in float32, with the grid, of normalised pictures [B, C, H, W]."""


def prepare(network: Network, device: torch.device, dtype: torch.dtype) -> Prepared:
    """A frozen copy of `network` on `device` that computes in `dtype`; later changes of weights do not reach it."""
    kind = PreparedViT if isinstance(network, VisionTransformer) else PreparedConvNeXt
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        return kind(network, device, dtype)  # type: ignore[arg-type]
