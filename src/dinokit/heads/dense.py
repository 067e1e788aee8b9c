"""A linear head on patch features: one 1 x 1 convolution over the maps of one or several layers.

Published for segmentation and depth (DINOv3, section 6): the maps are brought to the size of the first, joined, batch
normalised and mapped to classes or bins.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinokit.backbones.features import Features

Maps = Sequence[tuple[Tensor, Tensor]]
"""Of each layer: patches [B, C, h, w] and class tokens [B, C]."""


class LinearDenseHead(nn.Module):
    """Maps [B, C_i, h_i, w_i] of the layers -> [B, outputs, h, w], h and w those of the first.

    The state has the published names: `batchnorm_layer.*`, and the convolution under `name` ("conv" of segmentation,
    "conv_depth" of depth).
    """

    def __init__(
        self,
        channels: Sequence[int],
        outputs: int,
        *,
        dropout: float = 0.1,
        batch_norm: bool = True,
        class_token: bool = False,
        name: str = "conv",
    ) -> None:
        super().__init__()
        width = sum(channels) * (2 if class_token else 1)
        self.class_token, self.name = class_token, name
        self.dropout = nn.Dropout2d(dropout)
        self.batchnorm_layer: nn.Module = nn.BatchNorm2d(width) if batch_norm else nn.Identity()
        convolution = nn.Conv2d(width, outputs, 1)
        nn.init.normal_(convolution.weight, std=0.01)
        assert convolution.bias is not None
        nn.init.zeros_(convolution.bias)
        self.add_module(name, convolution)

    def forward(self, maps: Maps) -> Tensor:
        size = maps[0][0].shape[-2:]
        parts = []
        for patches, cls in maps:
            whole = patches
            if self.class_token:
                whole = torch.cat([patches, cls[..., None, None].expand_as(patches)], dim=1)
            if whole.shape[-2:] != size:
                whole = F.interpolate(whole, size=size, mode="bilinear", align_corners=False)
            parts.append(whole)
        out: Tensor = getattr(self, self.name)(self.batchnorm_layer(self.dropout(torch.cat(parts, dim=1))))
        return out


def to_maps(layers: Sequence[Features]) -> list[tuple[Tensor, Tensor]]:
    """Channel-last features of one look as the maps that dense heads take, in float32."""
    return [(f.patches.float().permute(0, 3, 1, 2), f.cls.float()) for f in layers]
