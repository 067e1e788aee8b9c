"""Losses of depth: scale-invariant in logarithms (Eigen et al., NeurIPS 2014, as in AdaBins), and of gradients.

The first is over any pixels, the second over maps, where it sharpens borders (MegaDepth, CVPR 2018).
"""

from __future__ import annotations

import torch
from torch import Tensor

_EPSILON = 0.001  # m
_BIAS = 0.15
_STEPS = (1, 2, 4, 6)


def scale_invariant_loss(found: Tensor, wanted: Tensor) -> Tensor:
    """The root of the variance of the logarithms' error plus 0.15 times its squared mean, over depths [N] in metres."""
    error = (found + _EPSILON).log() - (wanted + _EPSILON).log()
    square = _BIAS * error.mean() ** 2
    return (square + error.var()).clamp_min(1e-12).sqrt()


def gradient_loss(found: Tensor, wanted: Tensor, known: Tensor) -> Tensor:
    """Differences of slopes along x and y, summed over four resolutions, of depths (or their logarithms) [B, H, W].

    known: bool [B, H, W]; only slopes between known pixels count.
    """
    total = found.new_zeros(())
    for step in _STEPS:
        error = torch.where(known, found - wanted, 0.0)[:, ::step, ::step]
        valid = known[:, ::step, ::step]
        across = (error[:, :, 2:] - error[:, :, :-2]).abs() * (valid[:, :, 2:] & valid[:, :, :-2])
        down = (error[:, 2:] - error[:, :-2]).abs() * (valid[:, 2:] & valid[:, :-2])
        total = total + (across.sum() + down.sum()) / valid.sum().clamp_min(1)
    return total


def log_gradient_loss(found: Tensor, wanted: Tensor, known: Tensor) -> Tensor:
    """`gradient_loss` of the logarithms of depths in metres: a step counts by its ratio."""
    return gradient_loss((found + _EPSILON).log(), (wanted.clamp_min(0) + _EPSILON).log(), known)
