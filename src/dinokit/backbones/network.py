"""The two kinds of networks of the family under one name: what they are made from, and how they are made."""

from __future__ import annotations

from dinokit.backbones.convnext import ConvNeXt, ConvNeXtSpec
from dinokit.backbones.vit import VisionTransformer, ViTSpec

Spec = ViTSpec | ConvNeXtSpec
Network = VisionTransformer | ConvNeXt


def build(spec: Spec) -> Network:
    """The network of this shape, untrained."""
    return VisionTransformer(spec) if isinstance(spec, ViTSpec) else ConvNeXt(spec)
