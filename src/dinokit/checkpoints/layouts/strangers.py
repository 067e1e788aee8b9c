"""Tells whose weights a state dict holds that dinokit does not read, so that the error can say it.

A table of key beginnings that only one family has; the first line that fits decides.
"""

from __future__ import annotations

from collections.abc import Iterable

_READS = "dinokit reads the vision transformers (ViT) and ConvNeXts of DINOv3"

_SIGNS = (
    (("pos_embed", "embeddings.position_embeddings"), "a ViT with learnt positions (DINO, DINOv2, ...)"),
    (("layer1.0.conv1.", "layer1.0.conv2."), "a ResNet"),
    (("dino_head.", "ibot_head.", "last_layer.", "linear."), "a head without its backbone"),
)
"""(beginnings of keys, what has them)."""


def recognize(keys: Iterable[str]) -> tuple[str, str] | None:
    """What network these keys belong to, and what to do about it; None if it is not in the table."""
    names = list(keys)
    for beginnings, what in _SIGNS:
        if any(name.startswith(beginnings) for name in names):
            return what, _READS
    return None
