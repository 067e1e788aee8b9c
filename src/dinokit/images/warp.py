"""A picture as it would look from where another one was taken: resampled by a homography, with antialiasing."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import grid_sample

from dinokit.images.local_search import shrink

Pixels = NDArray[np.uint8]


def warp(picture: Pixels, places: NDArray[np.float64]) -> tuple[Pixels, NDArray[np.bool_]]:
    """Look `picture` up at `places` [h, w, 2] (x, y), which may lie outside.

    Returns uint8 [h, w, C], in the mean colour where there is nothing to see, and bool [h, w], where there is. Where
    places lie far apart, the picture is made smaller first, by their typical distance.
    """
    height, width, channels = picture.shape
    smaller = shrink(picture, _typical_step(places, height, width))
    pixels = torch.from_numpy(smaller.astype(np.float32)).permute(2, 0, 1)[None]
    inside = _within(places, height, width)
    grid = np.where(inside[..., None], places / [width, height] * 2 - 1, -1)
    looked_up = grid_sample(
        pixels, torch.from_numpy(grid).float()[None], mode="bilinear", padding_mode="border", align_corners=False
    )
    seen = looked_up[0].permute(1, 2, 0).round().clamp(0, 255).byte().numpy()
    mean = np.round(picture.reshape(-1, channels).mean(axis=0)).astype(np.uint8)
    return np.where(inside[..., None], seen, mean), inside


def _typical_step(places: NDArray[np.float64], height: int, width: int) -> float:
    """The median distance of neighbouring places that lie in the picture, along the row."""
    inside = _within(places, height, width)
    steps = np.linalg.norm(np.diff(places, axis=1), axis=-1)[inside[:, 1:] & inside[:, :-1]]
    return float(np.median(steps)) if len(steps) else 1.0


def _within(places: NDArray[np.float64], height: int, width: int) -> NDArray[np.bool_]:
    """Which places [h, w, 2] lie in the picture; NaN does not."""
    x, y = places[..., 0], places[..., 1]
    return np.asarray((x >= 0) & (y >= 0) & (x <= width) & (y <= height))
