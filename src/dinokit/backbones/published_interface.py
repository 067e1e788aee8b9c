"""The networks as Meta's published code offers them, so that programs written for it run unchanged.

Same modules, same keys, other entrances: `forward` gives class tokens, `forward_features` a dict, and
`get_intermediate_layers` maps or sequences of patches. Behaviour is that of the published classes, their order of
outputs included. New code uses `dinokit.load`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dinokit.backbones.convnext import ConvNeXt, ConvNeXtSpec
from dinokit.backbones.features import Features
from dinokit.backbones.network import Spec
from dinokit.backbones.vit import VisionTransformer, ViTSpec

Layers = int | Sequence[int]
"""The last so many, or which ones, counted from 0."""
Fields = dict[str, Tensor | None]


class PublishedViT(VisionTransformer):
    """A ViT with the methods and attributes of Meta's `DinoVisionTransformer`."""

    def __init__(self, spec: ViTSpec) -> None:
        super().__init__(spec)
        self.head = nn.Identity()
        self.embed_dim = self.num_features = spec.width
        self.n_blocks, self.num_heads, self.patch_size = spec.depth, spec.heads, spec.patch_size
        self.n_storage_tokens, self.chunked_blocks = spec.registers, False

    def forward(self, x: Any, masks: Any = None, *, is_training: bool = False) -> Any:  # type: ignore[override]
        """Class tokens [B, D] of pictures [B, C, H, W]; with `is_training` all that `forward_features` gives."""
        found = self.forward_features(x, masks)
        return found if is_training else self.head(found["x_norm_clstoken"])

    def forward_features(self, x: Any, masks: Any = None) -> Any:
        """For pictures [B, C, H, W] and masks [B, h*w] (or None): `x_norm_clstoken` [B, D], `x_storage_tokens`
        [B, R, D], `x_norm_patchtokens` [B, h*w, D], `x_prenorm` [B, 1+R+h*w, D], `masks`. For a list of pictures of
        several sizes with a list of masks: a list of these.
        """
        if isinstance(x, Tensor):
            return self._fields(x, masks, local=False)
        given = masks if masks is not None else [None] * len(x)
        pairs = zip(x, given, strict=True)
        return [self._fields(batch, mask, local=place == 1) for place, (batch, mask) in enumerate(pairs)]

    def _fields(self, pictures: Tensor, masks: Tensor | None, local: bool) -> Fields:
        x, rows, cols = self._embed(pictures, masks)
        for table, block in zip(self._tables(rows, cols), self.blocks, strict=True):
            x = block(x, table)
        features = self._features(x, rows, cols, norm=True, local=local)
        return {
            "x_norm_clstoken": features.cls,
            "x_storage_tokens": features.registers,
            "x_norm_patchtokens": features.tokens,
            "x_prenorm": x,
            "masks": masks,
        }

    def get_intermediate_layers(
        self,
        x: Tensor,
        *,
        n: Layers = 1,
        reshape: bool = False,
        return_class_token: bool = False,
        return_extra_tokens: bool = False,
        norm: bool = True,
    ) -> tuple[Any, ...]:
        """Patches [B, h*w, D] of blocks `n`, or with `reshape` [B, D, h, w], in the order of the blocks; as tuples with
        the class token [B, D] and the storage tokens [B, R, D] where they are asked for.
        """
        found = self.intermediate(x, _in_order(n, self.spec.depth), norm=norm)
        wanted = (True, return_class_token, return_extra_tokens)
        return tuple(_outputs(features, reshape, wanted) for features in found)


class PublishedConvNeXt(ConvNeXt):
    """A ConvNeXt with the methods and attributes of Meta's class; its final norm is in the state dict twice."""

    def __init__(self, spec: ConvNeXtSpec) -> None:
        super().__init__(spec)
        self.norms = nn.ModuleList([*(nn.Identity() for _ in range(3)), self.norm])
        self.head = nn.Identity()
        self.embed_dim = self.num_features = spec.width
        self.embed_dims, self.n_blocks, self.n_storage_tokens = list(spec.widths), spec.depth, 0
        self.patch_size, self.input_pad_size, self.chunked_blocks = spec.patch_size, 4, False

    def forward(self, x: Any, masks: Any = None, *, is_training: bool = False) -> Any:
        """Class tokens [B, D] of pictures [B, C, H, W]; with `is_training` all that `forward_features` gives."""
        found = self.forward_features(x, masks)
        return found if is_training else self.head(found["x_norm_clstoken"])

    def forward_features(self, x: Any, masks: Any = None) -> Any:
        """As a ViT's, with cells of 32 pixels, `x_storage_tokens` [B, 0, D] and `x_prenorm` [B, h*w, D], which has no
        pooled token. Masks are handed through.
        """
        if isinstance(x, Tensor):
            return self._fields(x, masks)
        given = masks if masks is not None else [None] * len(x)
        return [self._fields(batch, mask) for batch, mask in zip(x, given, strict=True)]

    def _fields(self, pictures: Tensor, masks: Tensor | None) -> Fields:
        x = pictures
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(downsample(x))
        tokens = x.flatten(2).transpose(1, 2)  # [B, D, h, w] -> [B, h*w, D]
        cls = self.norm(x.mean(dim=(2, 3)))
        return {
            "x_norm_clstoken": cls,
            "x_storage_tokens": tokens[:, :0],
            "x_norm_patchtokens": self.norm(tokens),
            "x_prenorm": tokens,
            "masks": masks,
        }

    def get_intermediate_layers(
        self, x: Tensor, n: Layers = 1, reshape: bool = False, return_class_token: bool = False, norm: bool = True
    ) -> tuple[Any, ...]:
        """The same of stages: each has its own width and, unless the network has a patch size, its own grid."""
        found = self.intermediate(x, _in_order(n, self.spec.depth), norm=norm)
        return tuple(_outputs(features, reshape, (True, return_class_token, False)) for features in found)


def _in_order(n: Layers, depth: int) -> list[int]:
    chosen = range(depth - n, depth) if isinstance(n, int) else n
    missing = [layer for layer in chosen if not 0 <= layer < depth]
    if missing:
        raise AssertionError(f"layers {missing} do not exist: there are 0 to {depth - 1}")  # as the published code does
    return sorted(set(chosen))


def _outputs(features: Features, reshape: bool, wanted: tuple[bool, bool, bool]) -> Any:
    patches = features.patches.permute(0, 3, 1, 2).contiguous() if reshape else features.tokens
    chosen = [
        part for part, is_wanted in zip((patches, features.cls, features.registers), wanted, strict=True) if is_wanted
    ]
    return tuple(chosen) if len(chosen) > 1 else patches


def build_published(spec: Spec) -> PublishedViT | PublishedConvNeXt:
    """The network of this shape with Meta's methods, untrained, its buffers filled."""
    return PublishedViT(spec) if isinstance(spec, ViTSpec) else PublishedConvNeXt(spec)


def with_published_interface(network: nn.Module, spec: Spec) -> PublishedViT | PublishedConvNeXt:
    """The same weights, not copied, in a network with Meta's methods."""
    with torch.device("meta"):
        made = build_published(spec)
    state = network.state_dict(keep_vars=True)
    if isinstance(made, PublishedConvNeXt):
        state |= {f"norms.3.{name}": state[f"norm.{name}"] for name in ("weight", "bias")}
    made.load_state_dict(state, assign=True)
    return made
