"""Coding-rate objective: views agree (cosine), the batch keeps its volume (log-determinant); no prototypes.

The determinant is taken on the smaller side of the batch matrix (the same value by Sylvester's identity)
through a Cholesky factor: exact, cheap, differentiable, and NaN features give NaN, not an exception.
Source: SimDINO (arXiv 2502.10385, section 3): loss = -alignment - gamma * coding_rate.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from dinokit.pretrain.losses.dino import pair_count


def coding_rate(features: Tensor, epsilon: float = 0.5) -> Tensor:
    """1/2 logdet(I + p / (m epsilon) Z^T Z) in nats, Z = L2-normalised features; a float32 scalar.

    features: [m, p], one view of m pictures. Larger means more spread out: maximise it.
    """
    with torch.autocast(features.device.type, enabled=False):
        unit = functional.normalize(features.float(), dim=-1)
        samples, width = unit.shape
        gram = unit @ unit.T if samples < width else unit.T @ unit  # [min(m, p), min(m, p)]
        matrix = gram * (width / (samples * epsilon)) + torch.eye(len(gram), device=gram.device)
        factor = torch.linalg.cholesky_ex(matrix).L
        return torch.sum(factor.diagonal().log())


def spread(rate: Tensor, samples: int, width: int, epsilon: float = 0.5) -> Tensor:
    """Where a coding rate of [samples, width] lies between that of equal features, 0, and the greatest there is, 1."""
    rank = min(samples, width)
    least, most = (count / 2 * math.log1p(width / (count * epsilon)) for count in (1, rank))
    return (rate - least) / max(most - least, 1e-9)


def alignment(student: Tensor, teacher: Tensor, *, ignore_diagonal: bool = False) -> Tensor:
    """Mean cosine over all pairs (student view, teacher view) and pictures, in -1..1; a float32 scalar.

    student: [S, B, p]; teacher: [T, B, p]; both are L2-normalised here. ignore_diagonal leaves out the pairs
    whose view has the same number on both sides (the same crop). Raises ValueError where no pair is left.
    """
    views, batch = student.shape[:2]
    pairs = pair_count(views, len(teacher), ignore_diagonal)
    ours = functional.normalize(student.float(), dim=-1)
    targets = functional.normalize(teacher.float(), dim=-1)
    agreement = torch.sum(ours.sum(0) * targets.sum(0))  # [S, B, p], [T, B, p] -> scalar
    if ignore_diagonal:
        same = min(views, len(targets))
        agreement = agreement - torch.sum(ours[:same] * targets[:same])
    return agreement / (batch * pairs)
