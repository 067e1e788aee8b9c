"""Which patches of a picture's two global crops show the same place, for a patch loss across the crops.

Source: location-based matching of VICRegL (Bardes et al. 2022, arXiv 2210.01571, section 3.2), here bilinear.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

SHARE: Final = 1 / 4
"""Of the patches that is matched: always as many, for each new shape of a matrix costs memory that is never freed."""


@dataclass(frozen=True)
class Matches:
    """K patches of global crops and where the same places lie in the other crops of the pictures."""

    rows: Tensor
    """int64 [K], positions in the flattened [2 * B * N] patches."""
    corners: Tensor
    """int64 [K, 4], the four patches of the other crop around the same place."""
    shares: Tensor
    """float32 [K, 4], their bilinear weights, which sum to 1."""

    def own(self, patches: Tensor) -> Tensor:
        """Tokens [2B, N, D] -> [K, D], the patches themselves."""
        return patches.flatten(0, 1)[self.rows]

    def other(self, patches: Tensor) -> Tensor:
        """Tokens [2B, N, D] -> [K, D], interpolated at the same places of the other crops."""
        return (patches.flatten(0, 1)[self.corners] * self.shares[..., None].to(patches.dtype)).sum(1)

    def to(self, device: torch.device) -> Matches:
        return Matches(self.rows.to(device), self.corners.to(device), self.shares.to(device))


def no_matches(device: torch.device) -> Matches:
    """Of an objective that does not ask for any."""
    rows = torch.empty(0, dtype=torch.int64, device=device)
    return Matches(rows, rows.view(0, 4), rows.view(0, 4).float())


def match_patches(boxes: Tensor, flips: Tensor, grid: tuple[int, int]) -> Matches:
    """Patches whose centre lies between patch centres of the other crop, drawn with torch's global generator.

    boxes: [2, B, 4] (x0, y0, x1, y1) in shares of the picture; flips: bool [2, B], mirrored crops; grid: (h, w).
    K is a quarter of all patches (some of them twice, where fewer match), or 0 where none match.
    """
    rows, columns = grid
    upright = torch.zeros_like(flips)
    y = _positions(boxes[..., 1], boxes[..., 3], upright, rows)  # [2, B, h], in patches of the other crop
    x = _positions(boxes[..., 0], boxes[..., 2], flips, columns)  # [2, B, w]
    inside = _within(y, rows)[..., :, None] & _within(x, columns)[..., None, :]  # [2, B, h, w]
    chosen = _draw(inside.flatten().nonzero().squeeze(1), math.ceil(SHARE * inside.numel()))
    crop, picture, row, column = torch.unravel_index(chosen, inside.shape)  # [K] each
    top, below = _split(y[crop, picture, row], rows)
    left, right = _split(x[crop, picture, column], columns)
    base = ((1 - crop) * boxes.shape[1] + picture) * rows * columns
    lower, further = (top + 1).clamp(max=rows - 1), (left + 1).clamp(max=columns - 1)
    corners = [base + i * columns + j for i in (top, lower) for j in (left, further)]
    shares = [i * j for i in (1 - below, below) for j in (1 - right, right)]
    return Matches(chosen, torch.stack(corners, 1), torch.stack(shares, 1))


def _draw(places: Tensor, count: int) -> Tensor:
    """`count` of them in random order, without replacement as far as they go."""
    drawn = places[torch.randperm(len(places))]
    return drawn.repeat(math.ceil(count / max(len(drawn), 1)))[:count]


def _positions(start: Tensor, end: Tensor, flips: Tensor, cells: int) -> Tensor:
    """[2, B] -> [2, B, cells]: where the cells' centres lie in the other crop; 0 is its first cell's centre."""
    centres = (torch.arange(cells) + 0.5) / cells
    mirrored, start, length = flips[..., None], start[..., None], (end - start)[..., None]
    place = start + torch.where(mirrored, 1 - centres, centres) * length
    share = (place - start.flip(0)) / length.flip(0)
    return torch.where(mirrored.flip(0), 1 - share, share) * cells - 0.5


def _within(position: Tensor, cells: int) -> Tensor:
    return (position >= 0) & (position <= cells - 1)


def _split(position: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """Whole cells before a position, and the rest of the way to the next."""
    whole = position.floor().clamp(0, max(cells - 2, 0))
    return whole.long(), position - whole
