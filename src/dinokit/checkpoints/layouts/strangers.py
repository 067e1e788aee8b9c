"""Tells whose weights a state dict holds that dinokit does not read, so that the error can say it.

A table of key beginnings that only one family has; the first line that fits decides.
"""

from __future__ import annotations

from collections.abc import Iterable

_PATCHES = "dinokit reads the vision transformers (ViT) of DINOv3 in Meta's key layout"
_CONVERT = "give the .pth file in Meta's key layout"

_SIGNS = (
    (("downsample_layers.0.",), "a ConvNeXt", _PATCHES),
    (("stages.0.", "model.stages.0."), "a ConvNeXt", _PATCHES),
    (("embeddings.patch_embeddings.", "model.layer.0.", "layer.0."), "a transformers model", _CONVERT),
    (("reg_token", "blocks.0.gamma_1"), "a timm model", _CONVERT),
    (
        ("pos_embed", "embeddings.position_embeddings"),
        "a ViT with learnt positions (DINO, DINOv2, ...)",
        _PATCHES,
    ),
    (("layer1.0.conv1.", "layer1.0.conv2."), "a ResNet", _PATCHES),
    (("dino_head.", "ibot_head.", "last_layer.", "linear."), "a head without its backbone", _PATCHES),
)
"""(beginnings of keys, what has them, what to do)."""


def recognize(keys: Iterable[str]) -> tuple[str, str] | None:
    """What network these keys belong to, and what to do about it; None if it is not in the table."""
    names = list(keys)
    for beginnings, what, remedy in _SIGNS:
        if any(name.startswith(beginnings) for name in names):
            return what, remedy
    return None
