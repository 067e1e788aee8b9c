"""Resampling and blur of one axis as linear operators, one for each picture of a batch.

Antialiased: the bicubic kernel widens as a box shrinks, as Pillow's and torch's antialiased `interpolate` have it.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

BLUR_TAPS: Final = 9


def resampling_taps(
    start: Tensor, end: Tensor, flips: Tensor, size: int, out: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Antialiased bicubic resampling of start..end (pixels, [B], CPU) to `out` samples.

    Returns index [B, out, taps] of the pixels read, and weights, which sum to 1 and are 0 for pixels that the
    box does not touch (cut, then resize). Samples are in reverse order where `flips` [B] says so.
    """
    widest = float((end - start).max()) / out if len(start) else 1.0
    taps = min(size, math.ceil(4 * max(widest, 1.0)) + 1)
    start, end, flipped = torch.stack((start, end, flips.float())).to(device)[..., None]  # [B, 1] each
    scale = (end - start) / out
    widening = scale.clamp(min=1)
    position = torch.arange(out, device=device) + 0.5
    centre = start + scale * torch.where(flipped > 0, out - position, position)  # [B, out]
    first = (centre - 2 * widening).floor().clamp(0, size - taps)
    index = first[..., None] + torch.arange(taps, device=device)  # [B, out, taps]
    low = (start + 1e-3).floor()
    high = torch.maximum((end - 1e-3).ceil(), low + 1)
    inside = (index >= low[..., None]) & (index < high[..., None])
    weight = _bicubic((index + 0.5 - centre[..., None]) / widening[..., None]) * inside
    return index.long(), weight / weight.sum(dim=-1, keepdim=True)


def resampling_matrix(taps: tuple[Tensor, Tensor], size: int) -> Tensor:
    """The taps as a matrix [B, out, size]."""
    index, weight = taps
    return weight.new_zeros(*weight.shape[:2], size).scatter_(2, index, weight)


def _bicubic(distance: Tensor) -> Tensor:
    """Keys' cubic kernel with a = -0.5, as Pillow and antialiased torch have it; 0 beyond 2."""
    x = distance.abs().clamp(max=2)
    return torch.where(x < 1, (1.5 * x - 2.5) * x * x + 1, ((2.5 - 0.5 * x) * x - 4) * x + 2)


def blur_matrix(sigmas: Tensor, out: int) -> Tensor:
    """[k] -> [k, out, out]: Gaussian of 9 taps with mirrored borders (the edge pixel not repeated)."""
    offsets = torch.arange(BLUR_TAPS, device=sigmas.device) - BLUR_TAPS // 2
    kernel = torch.softmax(-0.5 * (offsets / sigmas[:, None]) ** 2, dim=1)  # [k, 9]
    index = (torch.arange(out, device=sigmas.device) + offsets[:, None]).abs()
    mirrored = out - 1 - (out - 1 - index).abs()  # [9, out]
    shifts = torch.nn.functional.one_hot(mirrored, out).to(kernel.dtype)  # [9, out, out]
    return (kernel @ shifts.flatten(1)).view(-1, out, out)
