"""Features of a picture that is too large for one pass: tile by tile, blended where tiles overlap.

Each tile is a picture of its own to the network: its positions begin anew and it attends to nothing outside. The
patches of overlapping tiles are averaged by `images.tiles`; class token and registers are the mean over the tiles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dinokit.backbones.features import Features, Grid
from dinokit.images.tiles import plan_tiles


def encode_tiles(run: Callable[[Tensor], Features], view: Tensor, side: int, cell: int, several: int) -> Features:
    """Features of one picture, on the CPU.

    run: uint8 [b, C, h, w] -> `Features`. view: uint8 [C, H, W]. side: of a tile, in pixels. cell: pixels of a side
    of the cells that tiles begin at; both sides of the view and `side` are multiples of it. several: tiles that go
    through the network at a time.
    """
    plan = plan_tiles(view.shape[1] // cell, view.shape[2] // cell, side // cell)
    blend: _Blend | None = None
    for first in range(0, len(plan.places), several):
        places = plan.places[first : first + several]
        tiles = [
            view[:, top * cell : (top + plan.height) * cell, left * cell : (left + plan.width) * cell]
            for top, left in places
        ]
        found = run(torch.stack(tiles)).to("cpu")
        finer = found.patches.shape[1] // plan.height  # cells of the features in a cell of the plan
        blend = blend or _Blend.make(plan.rows * finer, plan.cols * finer, found)
        for number, (top, left) in enumerate(places):
            weights = plan.weights(top, left).repeat_interleave(finer, 0).repeat_interleave(finer, 1)
            blend.add(found, number, (top * finer, left * finer), weights)
    assert blend is not None  # a plan has at least one tile
    return blend.features(len(plan.places), (view.shape[1], view.shape[2]))


@dataclass
class _Blend:
    """Sums over the tiles so far."""

    cls: Tensor
    registers: Tensor
    patches: Tensor
    """[h, w, D], weighted."""
    weights: Tensor
    """[h, w, 1]"""

    @staticmethod
    def make(rows: int, cols: int, like: Features) -> _Blend:
        patches = torch.zeros(rows, cols, like.patches.shape[-1])
        return _Blend(
            torch.zeros_like(like.cls[0]), torch.zeros_like(like.registers[0]), patches, torch.zeros(rows, cols, 1)
        )

    def add(self, found: Features, number: int, place: tuple[int, int], weights: Tensor) -> None:
        """Add tile `number` of `found`, whose first cell is at `place`."""
        (top, left), (height, width) = place, weights.shape
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
