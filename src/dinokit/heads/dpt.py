"""The dense prediction transformer's head (Ranftl et al., ICCV 2021), with the names of the published weights.

Maps of four layers become a pyramid (4, 2, 1 and 1/2 times the patch grid), which is fused from coarse to fine; the
output has the resolution of the picture. As published for DINOv3 it reads patches only, no class token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from dinokit.heads.dense import Maps

LAYERS = 4
"""How many layers are read."""


@dataclass(frozen=True)
class DPTShape:
    """The widths of the head. The published ones: 2048 each (ViT-7B), 512, 32."""

    projected: tuple[int, ...] = (48, 96, 192, 384)
    """Channels of each level of the pyramid, fine to coarse."""
    channels: int = 64
    """Channels in which the levels are fused."""
    hidden: int = 32
    """Channels at full resolution."""


class Convolution(nn.Module):
    """A convolution under the name that it has in the published weights."""

    def __init__(self, inputs: int, outputs: int, size: int, bias: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class Reassemble(nn.Module):
    """Maps [B, D_i, h, w] of the layers -> the levels of the pyramid [B, P_i, .., ..], fine to coarse."""

    def __init__(self, widths: Sequence[int], projected: Sequence[int]) -> None:
        super().__init__()
        self.batchnorm_layers = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        self.projects = nn.ModuleList(Convolution(*pair, 1) for pair in zip(widths, projected, strict=True))
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(projected[0], projected[0], 4, stride=4),
                nn.ConvTranspose2d(projected[1], projected[1], 2, stride=2),
                nn.Identity(),
                nn.Conv2d(projected[3], projected[3], 3, stride=2, padding=1),
            ]
        )

    def forward(self, maps: Maps) -> list[Tensor]:
        steps = zip(self.batchnorm_layers, self.projects, self.resize_layers, maps, strict=True)
        return [resize(project(norm(patches))) for norm, project, resize, (patches, _) in steps]


class ResidualUnit(nn.Module):
    """Two convolutions with a way around them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = Convolution(channels, channels, 3, bias=False)
        self.conv2 = Convolution(channels, channels, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.conv2(self.conv1(x.relu()).relu())
        return out


class Fusion(nn.Module):
    """What was fused so far, with the next finer level added, at twice the size. The first has no level to add."""

    def __init__(self, channels: int, first: bool) -> None:
        super().__init__()
        if not first:
            self.res_conv_unit1 = ResidualUnit(channels)
        self.res_conv_unit2 = ResidualUnit(channels)
        self.project = Convolution(channels, channels, 1)

    def forward(self, x: Tensor, level: Tensor | None = None) -> Tensor:
        if level is not None:
            if level.shape != x.shape:
                level = F.interpolate(level, size=x.shape[-2:], mode="bilinear", align_corners=False)
            x = x + self.res_conv_unit1(level)
        out: Tensor = self.project(_double(self.res_conv_unit2(x)))
        return out


class DepthConvolutions(nn.Module):
    """Fused maps [B, C, h, w] -> outputs [B, K, 2h, 2w]."""

    def __init__(self, channels: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.head = nn.Sequential(
            nn.Conv2d(channels, channels // 2, 3, padding=1),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
            nn.Conv2d(channels // 2, hidden, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden, outputs, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(x)
        return out


class DPTHead(nn.Module):
    """Maps of four layers -> [B, outputs, 16 h, 16 w]; where h is odd, 16 (h + 1), over the same picture."""

    def __init__(self, widths: Sequence[int], outputs: int, shape: DPTShape) -> None:
        super().__init__()
        channels = shape.channels
        self.reassemble_blocks = Reassemble(widths, shape.projected)
        self.convs = nn.ModuleList(Convolution(width, channels, 3, bias=False) for width in shape.projected)
        self.fusion_blocks = nn.ModuleList(Fusion(channels, first=i == 0) for i in range(LAYERS))
        self.project = Convolution(channels, channels, 3)
        self.conv_depth = DepthConvolutions(channels, shape.hidden, outputs)

    def forward(self, maps: Maps) -> Tensor:
        levels = [conv(level) for conv, level in zip(self.convs, self.reassemble_blocks(maps), strict=True)]
        x = self.fusion_blocks[0](levels.pop())
        for fusion in list(self.fusion_blocks)[1:]:
            x = fusion(x, levels.pop())
        out: Tensor = self.conv_depth(self.project(x).relu())
        return out


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
