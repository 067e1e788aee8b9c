"""Finds where small squares of one picture lie in another one, near places that are known roughly: on the pixels alone.

Normalised cross-correlation (Lewis, "Fast Normalized Cross-Correlation", 1995): blind to brightness and contrast, and
to a fraction of a pixel by a parabola through its peak. A network's cells are many pixels wide: it says which place is
meant, this says where exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, grid_sample, interpolate

Pixels = NDArray[np.uint8]

_AT_ONCE = 512
_FLAT = 2.0
"""Grey levels: squares whose standard deviation is below show nothing that could be found again."""


@dataclass(frozen=True)
class LocalSearch:
    """How far and with what is searched, in pixels of the first picture."""

    radius: int = 10
    """The squares have 2 radius + 1 pixels a side."""
    reach: int = 10
    """The farthest step along each axis."""


SEARCH = LocalSearch()


def search_locally(
    first: Pixels, second: Pixels, starts: Tensor, ends: Tensor, shapes: Tensor, how: LocalSearch = SEARCH
) -> tuple[Tensor, Tensor]:
    """Better places in the second picture for N points of the first.

    first, second: uint8 [H, W, C]; starts, ends: [N, 2] pixels (x, y), known and roughly known; shapes: [N, 2, 2], what
    a small step (x, y) in the first picture becomes in the second. Returns places [N, 2] and correlations [N], -1 to
    1; where nothing is found the place is the old one and the correlation 0.
    """
    one, other = _grey(first), _grey(second)
    parts = zip(starts.split(_AT_ONCE), ends.split(_AT_ONCE), shapes.split(_AT_ONCE), strict=True)
    found = [_search(one, other, start, end, shape, how) for start, end, shape in parts]
    places, correlations = (torch.cat(values) for values in zip(*found, strict=True))
    return places, correlations


def shrink(picture: Pixels, factor: float) -> Pixels:
    """The picture made smaller by `factor`, by areas; as it is for 1 and below."""
    if factor <= 1:
        return picture
    size = [max(math.floor(side / factor + 0.5), 1) for side in picture.shape[:2]]
    pixels = torch.from_numpy(picture.astype(np.float32)).permute(2, 0, 1)[None]
    smaller = interpolate(pixels, size=size, mode="bilinear", antialias=True)[0]
    return np.asarray(smaller.permute(1, 2, 0).round().byte().numpy())


def _search(
    one: Tensor, other: Tensor, starts: Tensor, ends: Tensor, steps: Tensor, how: LocalSearch
) -> tuple[Tensor, Tensor]:
    identity = torch.eye(2, dtype=steps.dtype).expand(len(starts), 2, 2)
    squares = _sample(one, starts, identity, how.radius)
    fields = _sample(other, ends, steps, how.radius + how.reach)
    correlation = _correlate(squares, fields)  # [n, 2 reach + 1, 2 reach + 1]
    peak, shift, inner = _peak(correlation)
    moved = ends + (steps @ shift[..., None])[..., 0]
    textured = squares.flatten(1).std(1) > _FLAT
    good = inner & textured
    return torch.where(good[:, None], moved, ends), torch.where(good, peak, torch.zeros(()))


def _grey(picture: Pixels) -> Tensor:
    return torch.from_numpy(picture.astype(np.float32).mean(axis=2))


def _sample(picture: Tensor, centres: Tensor, steps: Tensor, radius: int) -> Tensor:
    """Squares [n, side, side] around `centres` [n, 2], a pixel along x and y being the columns of `steps` [n, 2, 2]."""
    line = torch.arange(-radius, radius + 1, dtype=steps.dtype)
    offsets = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1)  # [side, side, 2] (x, y)
    places = centres[:, None, None] + torch.einsum("nij,hwj->nhwi", steps, offsets)
    size = torch.tensor([picture.shape[1], picture.shape[0]], dtype=steps.dtype)
    grid = (places / size * 2 - 1).float()
    sampled = grid_sample(
        picture[None, None], grid.flatten(0, 1)[None], mode="bilinear", padding_mode="border", align_corners=False
    )
    return sampled.view(len(centres), *grid.shape[1:3])


def _correlate(squares: Tensor, fields: Tensor) -> Tensor:
    """Normalised cross-correlation of squares [n, s, s] at every place of their fields [n, f, f]."""
    side = squares.shape[-1]
    squares = squares - squares.mean((1, 2), keepdim=True)
    fields = fields - fields.mean((1, 2), keepdim=True)
    products = conv2d(fields[None], squares[:, None], groups=len(squares))[0] / side**2
    means = avg_pool2d(fields[:, None], side, stride=1)[:, 0]
    variances = avg_pool2d(fields[:, None] ** 2, side, stride=1)[:, 0] - means**2
    own = squares.square().mean((1, 2))[:, None, None]
    return products / (variances.clamp_min(_FLAT**2) * own.clamp_min(_FLAT**2)).sqrt()


def _peak(correlation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The highest value [n], its place (x, y) relative to the middle [n, 2], and whether it is no border value [n]."""
    count, side = correlation.shape[:2]
    best, index = correlation.flatten(1).max(1)
    row, col = index // side, index % side
    inner = (row > 0) & (row < side - 1) & (col > 0) & (col < side - 1)
    row, col, every = row.clamp(1, side - 2), col.clamp(1, side - 2), torch.arange(count)
    across = _top(*(correlation[every, row, col + step] for step in (-1, 0, 1)))
    down = _top(*(correlation[every, row + step, col] for step in (-1, 0, 1)))
    return best, torch.stack([col + across, row + down], dim=1).double() - side // 2, inner


def _top(before: Tensor, here: Tensor, after: Tensor) -> Tensor:
    """Where the parabola through three values one apart has its top, -0.5 to 0.5."""
    bend = (2 * here - before - after).clamp_min(1e-6)
    return ((after - before) / (2 * bend)).clamp(-0.5, 0.5)
