"""The ConvNeXt of the DINOv3 family (Liu et al. 2022; DINOv3, section 5.3): four stages of depthwise convolutions.

Attributes carry the names of the published files. The class token is the mean of the last map; there are no
registers. The final norm acts on the pooled token and on each cell of the last map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinokit.backbones.features import Features

STRIDE = 32
"""Pixels that a cell of the last map is apart from the next."""


@dataclass(frozen=True)
class ConvNeXtSpec:
    """The shape of a ConvNeXt."""

    depths: tuple[int, int, int, int]
    """Blocks of each stage."""
    widths: tuple[int, int, int, int]
    """Channels of each stage."""
    in_channels: int = 3
    patch_size: int = STRIDE
    """Side in pixels of a cell of the features. Other than 32, the maps of all stages are resized to such cells."""
    norm_eps: float = 1e-6
    layer_scale: float = 1e-6

    @property
    def width(self) -> int:
        """Channels of the last stage."""
        return self.widths[-1]

    @property
    def depth(self) -> int:
        """Number of stages."""
        return len(self.depths)

    @property
    def registers(self) -> int:
        """None: a ConvNeXt has no registers."""
        return 0

    @property
    def side_multiple(self) -> int:
        """Sides of a picture are multiples of this many pixels."""
        return STRIDE


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map [B, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        rows: Tensor = super().forward(x.permute(0, 2, 3, 1))
        return rows.permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    """x + gamma * mlp(norm(depthwise 7 x 7 convolution of x))."""

    def __init__(self, width: int, spec: ConvNeXtSpec) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=spec.norm_eps)
        self.pwconv1 = nn.Linear(width, 4 * width)
        self.pwconv2 = nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), float(spec.layer_scale)))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.dwconv(x).permute(0, 2, 3, 1)  # [B, C, H, W] -> [B, H, W, C]
        y = self.pwconv2(F.gelu(self.pwconv1(self.norm(y)))) * self.gamma
        return x + y.permute(0, 3, 1, 2)


def _downsample(before: int, after: int, spec: ConvNeXtSpec) -> nn.Sequential:
    return nn.Sequential(ChannelNorm(before, eps=spec.norm_eps), nn.Conv2d(before, after, 2, stride=2))


class ConvNeXt(nn.Module):
    """A DINOv3 ConvNeXt. Normalised pictures [B, C, H, W] in, `Features` out: R = 0, cells of `spec.patch_size`.

    Sides that are no multiples of 32 lose their remainder, stage by stage.
    """

    def __init__(self, spec: ConvNeXtSpec) -> None:
        super().__init__()
        self.spec = spec
        widths = spec.widths
        stem = nn.Sequential(nn.Conv2d(spec.in_channels, widths[0], 4, stride=4), ChannelNorm(widths[0], spec.norm_eps))
        steps = (_downsample(before, after, spec) for before, after in pairwise(widths))
        self.downsample_layers = nn.ModuleList([stem, *steps])
        self.stages = nn.ModuleList(
            nn.Sequential(*(ConvNeXtBlock(width, spec) for _ in range(depth)))
            for width, depth in zip(widths, spec.depths, strict=True)
        )
        self.norm = nn.LayerNorm(spec.width, eps=spec.norm_eps)
        self.initialize()

    def initialize(self) -> None:
        """Draw all weights as the published training does (truncated normal, deviation 0.02)."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, pictures: Tensor) -> Features:
        """Features of the last stage after the final norm."""
        return self.intermediate(pictures, [-1])[0]

    def intermediate(self, pictures: Tensor, layers: Sequence[int], norm: bool = True) -> list[Features]:
        """Features after each of the stages `layers` (0 to 3, negative from the end), in the order asked for.

        Each stage has its own width and, unless `spec.patch_size` asks for cells of one size, its own grid. norm:
        whether the last stage goes through the final norm; the others have none.
        """
        depth = self.spec.depth
        if not all(-depth <= layer < depth for layer in layers):
            raise IndexError(f"layers {list(layers)}: this network has stages 0 to {depth - 1}")
        wanted = [layer % depth for layer in layers]
        x, found = pictures, {}
        for index, (downsample, stage) in enumerate(zip(self.downsample_layers, self.stages, strict=True)):
            x = stage(downsample(x))
            if index in wanted:
                found[index] = self._features(x, pictures, norm and index == depth - 1)
        return [found[layer] for layer in wanted]

    def _features(self, x: Tensor, pictures: Tensor, norm: bool) -> Features:
        cls = x.mean(dim=(2, 3))
        patches = to_cells(x, pictures, self.spec.patch_size).permute(0, 2, 3, 1)  # [B, D, h, w] -> [B, h, w, D]
        if norm:
            cls, patches = self.norm(cls), self.norm(patches)
        return Features(cls, cls.new_empty(len(cls), 0, cls.shape[1]), patches)


def to_cells(x: Tensor, pictures: Tensor, patch_size: int) -> Tensor:
    """A map [B, D, h, w] resized to cells of `patch_size` pixels of `pictures`; as it is where that is the stride."""
    if patch_size == STRIDE:
        return x
    size = (pictures.shape[2] // patch_size, pictures.shape[3] // patch_size)
    return F.interpolate(x, size=size, mode="bilinear", antialias=True, align_corners=False)
