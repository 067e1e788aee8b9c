"""Block masks: which patches of the global crops the student does not see.

Rectangles are laid until the target is reached, single cells fill the rest, so the count is exact and only
the shape is random. A mask is one Python integer with a bit per cell: laying and counting a rectangle are
three operations on integers, which is far cheaper here than arrays.
Source: BEiT (arXiv 2106.08254, algorithm 1), iBOT (arXiv 2111.07832); counts as in DINOv3's data pipeline.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_MIN_BLOCK = 4
_TRIES = 10
_LOG_ASPECT = math.log(1 / 0.3)


@dataclass(frozen=True)
class MaskBatch:
    """Masks of the rows of a batch, and where their masked tokens lie. M: masked tokens in all."""

    masks: Tensor
    """bool [rows, N], True where the student sees the mask token."""
    indices: Tensor
    """int64 [M], ascending positions in the flattened [rows * N] tokens."""
    weights: Tensor
    """float32 [M], 1 / masked tokens of that token's row."""


def block_mask(grid: tuple[int, int], target: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """A mask bool [h, w] of exactly `target` cells, in blocks. ValueError unless 0 <= target <= h * w."""
    height, width = grid
    if not 0 <= target <= height * width:
        raise ValueError(f"cannot mask {target} cells of a grid of {height} x {width}")
    return _unpack(_complete(place_blocks(grid, target, rng), target, height * width, rng), grid)


def batch_masks(
    rows: int,
    grid: tuple[int, int],
    *,
    probability: float = 0.5,
    ratio: tuple[float, float] = (0.1, 0.5),
    rng: np.random.Generator,
    roll: bool = False,
) -> MaskBatch:
    """Masks for `rows` global crops on a patch `grid` (h, w), on the CPU.

    int(rows * probability) rows get a mask, in random places; the i-th of them covers the upper edge of the
    i-th interval of `ratio`, so that the number of masked tokens is the same in every batch. `roll` shifts
    each mask cyclically by a random offset (blocks then reach the border as often as the centre).
    Raises ValueError where probability or ratio are not within 0..1.
    """
    if not (0 <= probability <= 1 and 0 <= ratio[0] <= ratio[1] <= 1):
        raise ValueError(f"probability {probability} and ratio {ratio} must lie within 0..1, ascending")
    cells = grid[0] * grid[1]
    masked_rows = int(rows * probability)
    masks = np.zeros((rows, *grid), dtype=np.bool_)
    places = rng.permutation(rows)[:masked_rows]
    for place, edge in zip(places, np.linspace(*ratio, masked_rows + 1)[1:], strict=True):
        mask = block_mask(grid, int(cells * edge + 1e-6), rng)
        if roll:
            mask = np.roll(mask, (rng.integers(grid[0]), rng.integers(grid[1])), axis=(0, 1))
        masks[place] = mask
    flat = masks.reshape(rows, cells)  # [rows, h, w] -> [rows, N]
    counts = flat.sum(axis=1)
    weights = np.repeat(1 / np.maximum(counts, 1), counts).astype(np.float32)  # [M]
    return MaskBatch(torch.from_numpy(flat), torch.from_numpy(np.flatnonzero(flat)), torch.from_numpy(weights))


def place_blocks(grid: tuple[int, int], target: int, rng: np.random.Generator) -> int:
    """Lay random rectangles until `target` cells are covered or ten tries in a row fail; never more.

    Returns the mask as an integer: bit row * w + column is set for a masked cell. Always ends: each round
    covers at least one more cell or is the last.
    """
    height, width = grid
    largest = height * width // 2
    mask = 0
    while (missing := target - mask.bit_count()) > 0:
        room = min(missing, largest)
        for draws in rng.random((_TRIES, 4)).tolist():
            block = _rectangle(grid, room, draws)
            if 0 < (block & ~mask).bit_count() <= room:
                mask |= block
                break
        else:
            break
    return mask


def _rectangle(grid: tuple[int, int], room: int, draws: list[float]) -> int:
    """A rectangle of about 4..room cells as bits, from four uniform draws; 0 where it does not fit."""
    area = _MIN_BLOCK + (room - _MIN_BLOCK) * draws[0]
    aspect = math.exp(_LOG_ASPECT * (2 * draws[1] - 1))
    height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    if not (0 < height < grid[0] and 0 < width < grid[1]):
        return 0
    top = int(draws[2] * (grid[0] - height + 1))
    left = int(draws[3] * (grid[1] - width + 1))
    line = (1 << width) - 1
    # line * (1 + 2^w + 2^2w + …): the line repeated once per row of the rectangle
    repeated = line * (((1 << (grid[1] * height)) - 1) // ((1 << grid[1]) - 1))
    return repeated << (top * grid[1] + left)


def _complete(mask: int, target: int, cells: int, rng: np.random.Generator) -> int:
    """Add cells drawn uniformly among the free ones until exactly `target` are set."""
    missing = target - mask.bit_count()
    if missing > 0:
        free = [cell for cell in range(cells) if not mask >> cell & 1]
        for cell in rng.permutation(free)[:missing].tolist():
            mask |= 1 << cell
    return mask


def _unpack(mask: int, grid: tuple[int, int]) -> NDArray[np.bool_]:
    """Bits -> bool [h, w]."""
    cells = grid[0] * grid[1]
    packed = np.frombuffer(mask.to_bytes((cells + 7) // 8, "little"), dtype=np.uint8)
    return np.unpackbits(packed, count=cells, bitorder="little").astype(np.bool_).reshape(grid)
