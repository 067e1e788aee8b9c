"""Pieces of pictures for heads that must see maps: the same number of cells of each, with the depth of each point.

A head such as DPT reads around itself and its output is as fine as the picture, so single pixels (`heads.pixels`) do
not suffice; pieces are cheaper than whole pictures and never look alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dinokit.backbones.features import Features
from dinokit.heads.dense import Maps, to_maps
from dinokit.heads.pixels import span_of


@dataclass(frozen=True)
class CropBatch:
    """Pieces of several pictures."""

    maps: Maps
    """Of each layer: patches [B, C, h, w] and class tokens [B, C]."""
    targets: Tensor
    """[B, h * fineness, w * fineness]: the value at each point, 0 where it is not known."""


def draw_crops(
    features: Sequence[tuple[Features, ...]],
    values: Sequence[NDArray[np.float32]],
    cells: int,
    fineness: int,
    generator: torch.Generator,
) -> CropBatch:
    """A random piece of `cells` x `cells` cells, or what all pictures have, of each picture.

    values: [H, W] of each picture, 0 where not known. fineness: points along a cell's side. All layers must have one
    grid.
    """
    grids = [layers[0].patches.shape[1:3] for layers in features]
    height, width = (min(cells, *(grid[axis] for grid in grids)) for axis in (0, 1))
    maps, targets = [], []
    for layers, whole, (rows, cols) in zip(features, values, grids, strict=True):
        top, left = (_draw(most, generator) for most in (rows - height, cols - width))
        part = (slice(None), slice(None), slice(top, top + height), slice(left, left + width))
        maps.append([(patches[part], cls) for patches, cls in to_maps(layers)])
        high, wide = (side / count for side, count in zip(span_of(layers), (rows, cols), strict=True))
        ys, xs = (_points(first, count, fineness) for first, count in ((top, height), (left, width)))
        targets.append(_look_up(whole, ys * high, xs * wide))
    layered = [tuple(zip(*layer, strict=True)) for layer in zip(*maps, strict=True)]
    joined = [(torch.cat(patches), torch.cat(cls)) for patches, cls in layered]
    return CropBatch(joined, torch.stack(targets))


def _draw(most: int, generator: torch.Generator) -> int:
    return int(torch.randint(most + 1, (), generator=generator))


def _points(first: int, count: int, fineness: int) -> NDArray[np.float64]:
    """Places in cells of the points within cells `first` to `first + count`."""
    return first + (np.arange(count * fineness) + 0.5) / fineness


def _look_up(values: NDArray[np.float32], ys: NDArray[np.float64], xs: NDArray[np.float64]) -> Tensor:
    """The values of the pixels that the points lie in; 0 beyond the picture."""
    rows, cols = np.floor(ys).astype(int), np.floor(xs).astype(int)
    height, width = values.shape
    inside = (rows < height)[:, None] & (cols < width)[None]
    found = values[np.minimum(rows, height - 1)[:, None], np.minimum(cols, width - 1)[None]]
    return torch.from_numpy(np.where(inside, found, np.float32(0)))
