"""Features of a picture that is too large for one pass: tile by tile, blended where tiles overlap.

Each tile is a picture of its own to the network: its positions begin anew and it attends to nothing outside. The
patches of overlapping tiles are averaged by `images.tiles`; class token and registers are the mean over the tiles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dinokit.backbones.features import Features, Grid
from dinokit.errors import UserError
from dinokit.images.tiles import Tiling, plan_tiles


def tile_side(tile: object, multiple: int) -> int:
    """The side in pixels of a tile as asked for, a multiple of the grid's. `UserError` for one without neighbours."""
    if not isinstance(tile, (int, np.integer)) or tile < 2 * multiple:
        raise UserError(f"tile is {tile!r}", f"give the side of a tile in pixels, {2 * multiple} or more")
    return int(tile) // multiple * multiple


def encode_tiles(
    run: Callable[[Tensor], tuple[Features, ...]], view: Tensor, side: int, cell: int, several: int
) -> tuple[Features, ...]:
    """Features of one picture at some layers, on the CPU.

    run: uint8 [b, C, h, w] -> `Features` of each layer. view: uint8 [C, H, W]. side: of a tile, in pixels. cell: pixels
    of a side of the cells that tiles begin at; both sides of the view and `side` are multiples of it. several: tiles
    that go through the network at a time.
    """
    plan = plan_tiles(view.shape[1] // cell, view.shape[2] // cell, side // cell)
    blends: list[_Blend] = []
    for first in range(0, len(plan.places), several):
        places = plan.places[first : first + several]
        tiles = [
            view[:, top * cell : (top + plan.height) * cell, left * cell : (left + plan.width) * cell]
            for top, left in places
        ]
        found = [features.to("cpu") for features in run(torch.stack(tiles))]
        blends = blends or [_Blend.make(plan, features) for features in found]
        for blend, features in zip(blends, found, strict=True):
            for number, (top, left) in enumerate(places):
                blend.add(features, number, (top, left), plan.weights(top, left))
    return tuple(blend.features(len(plan.places), (view.shape[1], view.shape[2])) for blend in blends)


@dataclass
class _Blend:
    """Sums over the tiles so far."""

    cls: Tensor
    registers: Tensor
    patches: Tensor
    """[h, w, D], weighted."""
    weights: Tensor
    """[h, w, 1]"""

    finer: int
    """Cells of the features along a side of a cell of the plan."""

    @staticmethod
    def make(plan: Tiling, like: Features) -> _Blend:
        finer = like.patches.shape[1] // plan.height
        rows, cols = plan.rows * finer, plan.cols * finer
        patches = torch.zeros(rows, cols, like.patches.shape[-1])
        sums = torch.zeros_like(like.cls[0]), torch.zeros_like(like.registers[0])
        return _Blend(*sums, patches, torch.zeros(rows, cols, 1), finer)

    def add(self, found: Features, number: int, place: tuple[int, int], weights: Tensor) -> None:
        """Add tile `number` of `found`, whose first cell of the plan is at `place`."""
        weights = weights.repeat_interleave(self.finer, 0).repeat_interleave(self.finer, 1)
        (top, left), (height, width) = (self.finer * start for start in place), weights.shape
        here = (slice(top, top + height), slice(left, left + width))
        self.patches[here].addcmul_(found.patches[number], weights[..., None])
        self.weights[here].add_(weights[..., None])
        self.cls.add_(found.cls[number])
        self.registers.add_(found.registers[number])

    def features(self, tiles: int, size: tuple[int, int]) -> Features:
        rows, cols = self.patches.shape[:2]
        patches = self.patches.div_(self.weights)
        grid = Grid(rows, cols, (size,))
        return Features((self.cls / tiles)[None], (self.registers / tiles)[None], patches[None], grid)
