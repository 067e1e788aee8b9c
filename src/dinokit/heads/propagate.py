"""Labels carried from frame to frame by the likeness of frozen features: nothing is learnt.

Every cell of a new frame takes the weighted mean of what its most similar cells in earlier frames hold, among those
that lie near it: the first frame, whose labels are known, and the last few. Jabri et al., "Space-Time Correspondence
as a Contrastive Random Walk" (2020), section 4.1, with the values of the DINOv3 protocol.

Cells are compared in blocks: a block of the new frame and the window around it in all earlier frames are one matrix
product, so that time and memory follow the window and not the frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from dinokit.errors import UserError
from dinokit.images.cells import PixelMap, shares

_BLOCK = 16
"""Side of a block in cells: larger ones compare more cells in vain, smaller ones copy more."""


@dataclass(frozen=True)
class PropagateSettings:
    """Who is asked for the label of a cell; the values of the published protocol."""

    queue: int = 7
    """How many of the last frames are asked beside the first."""
    radius: float = 12
    """How far in cells an object may move between frames that are compared."""
    shape: Literal["circle", "square"] = "circle"
    """Of the window: cells at most `radius` away, or at most `radius` rows and columns."""
    neighbours: int = 5
    """How many cells are asked; more where the last ones are equally similar."""
    temperature: float = 0.2
    """By which similarities are divided in the softmax: smaller trusts the nearest more."""

    def __post_init__(self) -> None:
        for name, least in (("queue", 0), ("neighbours", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise UserError(f"{name} is {value!r}", f"give a whole number, {least} or more")
        for name, bound in (("radius", 0), ("temperature", 1e-6)):
            if not bound <= getattr(self, name) < float("inf"):
                raise UserError(f"{name} is {getattr(self, name)!r}", f"give a number, {bound:g} or more")
        if self.shape not in ("circle", "square"):
            raise UserError(f"shape is {self.shape!r}", 'give "circle" or "square"')


def to_cells(labels: Tensor, numbers: Sequence[int], rows: int, cols: int) -> Tensor:
    """Object numbers uint8 [H, W] as probabilities [rows, cols, C] of `numbers`: the pixel in the middle decides."""
    middle = interpolate(labels[None, None].float(), (rows, cols), mode="nearest-exact")[0, 0]
    return (middle[..., None] == torch.tensor(numbers, device=labels.device)).float()


def to_pixels(probabilities: Tensor, height: int, width: int, smooth: bool = True) -> Tensor:
    """Which of the C is most probable in each pixel, [h, w, C] -> uint8 [height, width].

    Each of the C is brought to the range from 0 to 1 first, so that small objects are not lost. smooth: between cells
    by bilinear interpolation, or each cell as a whole, as in the published protocol. Bands of rows bound the memory.
    """
    rows, cols, _ = probabilities.shape
    used = [shares(*side, side[0], smooth).any(0).to(probabilities.device) for side in ((height, rows), (width, cols))]
    seen = probabilities[used[0]][:, used[1]]
    least, most = seen.amin((0, 1)), seen.amax((0, 1))
    even = ((probabilities - least) / (most - least)).nan_to_num(0, 0, 0).permute(2, 0, 1)  # [C, h, w]
    return PixelMap(even, (height, width), height, width, smooth).most()


class Memory:
    """The first frame and the last ones: a ring of vectors of length 1 and of probabilities."""

    def __init__(self, first: Tensor, settings: PropagateSettings) -> None:
        self.settings = settings
        rows, cols, _ = first.shape
        self.blocks = list(_blocks(rows, cols, settings, first.device))
        self.values = first.new_empty(settings.queue + 1, *first.shape)  # [F, h, w, C]
        self.vectors = self.values[:0]  # [F, h, w, D]
        self.seen = 0

    @staticmethod
    def restore(vectors: Tensor, values: Tensor, seen: int, settings: PropagateSettings) -> Memory:
        """The memory that had these `vectors`, `values` and `seen`."""
        memory = Memory(values[0], settings)
        memory.vectors, memory.values, memory.seen = vectors, values, seen
        return memory

    def add(self, vectors: Tensor, values: Tensor) -> None:
        """Keep a frame, vectors [h, w, D] of length 1 and probabilities [h, w, C], for the oldest but the first."""
        if not self.seen:
            self.vectors = vectors.new_empty(len(self.values), *vectors.shape)
        queue = self.settings.queue
        if not self.seen or queue:
            place = 1 + (self.seen - 1) % queue if self.seen else 0
            self.vectors[place], self.values[place] = vectors, values
        self.seen += 1

    def ask(self, vectors: Tensor) -> Tensor:
        """The probabilities [h, w, C] of a frame of which the vectors [h, w, D] are known."""
        held = min(self.seen, len(self.values))
        found = torch.empty_like(self.values[0])
        for block in self.blocks:
            known, values = (part[:held, *block.window] for part in (self.vectors, self.values))
            asked = vectors[block.cells]
            found[block.cells] = _vote(
                asked.flatten(0, 1), known.flatten(1, 2), values.flatten(1, 2), block.outside, self.settings
            ).view(*asked.shape[:2], -1)
        return found


@dataclass(frozen=True)
class _Block:
    """Cells that are looked at together, and the smallest rectangle that holds all their neighbours."""

    cells: tuple[slice, slice]
    window: tuple[slice, slice]
    outside: Tensor
    """Which cells of the window are beyond the reach of which of the block: bool [q, k]."""


def _blocks(rows: int, cols: int, settings: PropagateSettings, device: torch.device) -> Iterator[_Block]:
    for top in range(0, rows, _BLOCK):
        for left in range(0, cols, _BLOCK):
            cells = slice(top, min(top + _BLOCK, rows)), slice(left, min(left + _BLOCK, cols))
            reach = min(int(settings.radius), rows + cols)
            window = _widened(cells[0], reach, rows), _widened(cells[1], reach, cols)
            asked, near = (_places(part, device) for part in (cells, window))
            apart = (asked[:, None] - near).abs()  # [q, k, 2]
            distance = apart.square().sum(-1).sqrt() if settings.shape == "circle" else apart.amax(-1)
            yield _Block(cells, window, distance > settings.radius)


def _widened(part: slice, by: int, end: int) -> slice:
    return slice(max(part.start - by, 0), min(part.stop + by, end))


def _places(part: tuple[slice, ...], device: torch.device) -> Tensor:
    """Row and column of the cells of a rectangle: [n, 2]."""
    axes = [torch.arange(one.start, one.stop, device=device, dtype=torch.float32) for one in part]
    return torch.cartesian_prod(*axes)


def _vote(asked: Tensor, known: Tensor, values: Tensor, outside: Tensor, settings: PropagateSettings) -> Tensor:
    """The weighted mean [q, C] of the `values` [F, k, C] of the `known` cells [F, k, D] most like those `asked` [q, D].

    Only the best frame of each place decides which places matter (one pass over all similarities); all frames of
    these few are then looked at.
    """
    frames, places, _ = known.shape
    similar = (asked @ known.flatten(0, 1).T).view(-1, frames, places)  # [q, F, k]
    best = similar.amax(1).masked_fill_(outside, -torch.inf)  # [q, k]
    nearest = best.topk(min(settings.neighbours, places)).indices  # [q, n]
    shortlist = similar.gather(2, nearest[:, None].expand(-1, frames, -1)).flatten(1)
    shortlist = shortlist.masked_fill_(outside.gather(1, nearest).repeat(1, frames), -torch.inf)  # [q, F*n]
    last = shortlist.topk(min(settings.neighbours, shortlist.shape[1])).values[:, -1:]  # [q, 1]
    cell, place = (best >= last.clamp_min(-2)).nonzero(as_tuple=True)  # -2: fewer neighbours than wanted
    found = similar[cell, :, place]  # [n, F]
    top = best.amax(1)[cell, None]
    weights = ((found - top) / settings.temperature).exp_().masked_fill_(found < last[cell], 0)
    total = values.new_zeros(len(asked), values.shape[-1])
    total.index_add_(0, cell, torch.einsum("nf,nfc->nc", weights, values[:, place].transpose(0, 1)))
    return total / total.sum(-1, keepdim=True)
