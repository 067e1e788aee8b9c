"""Dense heads and single pixels: what a head says at labelled pixels drawn at random, and for whole pictures.

Bilinear resizing is linear, so a head's output at a pixel can be had from the four cells around it: the loss over
drawn pixels is, in expectation, the loss over the whole resized map, at a fraction of the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from dinokit.backbones.features import Features
from dinokit.errors import UserError
from dinokit.heads.dense import Maps, to_maps
from dinokit.images.cells import PixelMap, Span


@dataclass(frozen=True)
class PixelBatch:
    """Pixels drawn of some pictures."""

    maps: Sequence[Maps]
    """The features of each picture, a batch of one."""
    spans: list[Span]
    """Height and width in pixels that the cells of each picture span."""
    pixels: list[Tensor]
    """[P, 2] (x, y) of each picture."""
    targets: Tensor
    """[pictures * P], the values there."""


@dataclass(frozen=True)
class LabelledMap:
    """The values of a picture's pixels [H, W], and which of them are known."""

    values: NDArray[Any]
    known: NDArray[np.bool_]


def draw_pixels(
    features: Sequence[tuple[Features, ...]], labels: Sequence[LabelledMap], count: int, generator: torch.Generator
) -> PixelBatch:
    """Draw `count` known pixels of each picture; pictures without any are left out. `UserError` if none has any."""
    maps, spans, pixels, targets = [], [], [], []
    for layers, label in zip(features, labels, strict=True):
        known = np.flatnonzero(label.known.ravel())
        if not len(known):
            continue
        drawn = known[torch.randint(len(known), (count,), generator=generator).numpy()]
        rows, cols = np.divmod(drawn, label.values.shape[1])
        maps.append(to_maps(layers))
        spans.append(span_of(layers))
        pixels.append(torch.from_numpy(np.stack([cols + 0.5, rows + 0.5], axis=1)).float())
        targets.append(torch.from_numpy(label.values[rows, cols]))
    if not targets:
        raise UserError("none of the pictures of a batch has a known pixel", "remove pictures without labels")
    return PixelBatch(maps, spans, pixels, torch.cat(targets))


def outputs_at_pixels(head: nn.Module, batch: PixelBatch) -> Tensor:
    """What the head says at the pixels of the batch: [pictures * P, C]. Pictures of one grid go through it together."""
    found: dict[int, Tensor] = {}
    for shape in dict.fromkeys(maps[0][0].shape for maps in batch.maps):
        same = [i for i, maps in enumerate(batch.maps) if maps[0][0].shape == shape]
        layers = zip(*(batch.maps[i] for i in same), strict=True)
        joined = [tuple(torch.cat(parts) for parts in zip(*layer, strict=True)) for layer in layers]
        for i, output in zip(same, head(joined), strict=True):
            found[i] = sample(output, batch.pixels[i], batch.spans[i])
    return torch.cat([found[i] for i in range(len(batch.maps))])


def sample(outputs: Tensor, pixels: Tensor, span: Span) -> Tensor:
    """Outputs [C, h, w] at pixels [P, 2] (x, y), as resizing them bilinearly to `span` would give: [P, C]."""
    place = pixels / pixels.new_tensor([span[1], span[0]]) * 2 - 1  # the picture is [-1, 1]
    values = F.grid_sample(
        outputs[None], place[None, None], mode="bilinear", padding_mode="border", align_corners=False
    )
    return values[0, :, 0].T


@torch.no_grad()
def outputs_for_picture(head: nn.Module, layers: Sequence[Features], height: int, width: int) -> PixelMap:
    """What the head says of one picture, on the CPU, to be had for its pixels."""
    outputs = head([(patches.cpu(), cls.cpu()) for patches, cls in to_maps(layers)])
    return PixelMap(outputs[0], span_of(layers), height, width)


def span_of(layers: Sequence[Features]) -> Span:
    """Height and width in source pixels that the cells of one picture span."""
    grid = layers[0].grid
    assert grid is not None
    return grid.spans[0]
