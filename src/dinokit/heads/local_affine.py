"""What matches near each other say together: how things become larger, turn and slant there, and which match is wrong.

Each place has an affine map through its nearest matches, which count less and less where they disagree (iteratively
reweighted least squares). Right matches have neighbours that move as they do, wrong ones do not (Bian et al., "GMS",
2017; Cavalli et al., "AdaLAM", 2020).
"""

from __future__ import annotations

import torch
from torch import Tensor

NEIGHBOURS = 24
_STRIP = 1024
_ROUNDS = 10
_AGREEING = 0.25
"""Share of the neighbours that have to move alike."""


def local_shapes(points: Tensor, starts: Tensor, ends: Tensor) -> Tensor:
    """What a small step (x, y) at each of N points [N, 2] becomes in the second picture: [N, 2, 2].

    starts, ends: [M, 2] matches. The step itself where they are few or agree on nothing.
    """
    identity = torch.eye(2, dtype=starts.dtype).expand(len(points), 2, 2)
    if len(starts) < NEIGHBOURS // 2:
        return identity
    near = _nearest(points, starts)
    affine, _ = _fit(starts[near] - points[:, None], ends[near], ends[near].median(1).values)
    shapes = affine[:, :2].transpose(1, 2)
    area = torch.linalg.det(shapes)
    sound = (area > 0.05) & (area < 20) & (shapes.abs().amax((1, 2)) < 5)
    return torch.where(sound[:, None, None], shapes, identity)


def agree_locally(starts: Tensor, ends: Tensor, limit: float) -> Tensor:
    """Which of M matches [M, 2] -> [M, 2] lie within `limit` pixels of the map of their neighbours: bool [M].

    All of them where there are too few to tell.
    """
    if len(starts) < NEIGHBOURS // 2:
        return torch.ones(len(starts), dtype=torch.bool)
    near = _nearest(starts, starts)  # the first is the match itself
    _, away = _fit(starts[near] - starts[:, None], ends[near], ends)
    return (away[:, 0] < limit) & ((away < limit).double().mean(1) >= _AGREEING)


def expect(points: Tensor, starts: Tensor, ends: Tensor, limit: float) -> Tensor:
    """Where the matches around say that N points [N, 2] go: [N, 2], NaN where they do not agree.

    starts, ends: [M, 2] matches; limit: in pixels, for those that agree.
    """
    if len(starts) < NEIGHBOURS // 2:
        return torch.full_like(points, torch.nan)
    near = _nearest(points, starts)
    affine, away = _fit(starts[near] - points[:, None], ends[near], ends[near].median(1).values)
    agreed = (away < limit).double().mean(1) >= 2 * _AGREEING
    return torch.where(agreed[:, None], affine[:, 2], torch.nan)


def _nearest(points: Tensor, starts: Tensor) -> Tensor:
    """Numbers [N, k] of the matches nearest to each point, in strips: N x M distances would be large."""
    count = min(NEIGHBOURS, len(starts))
    strips = [torch.cdist(part, starts).topk(count, largest=False).indices for part in points.split(_STRIP)]
    return torch.cat(strips)


def _fit(here: Tensor, there: Tensor, guess: Tensor) -> tuple[Tensor, Tensor]:
    """Affine maps [N, 3, 2] from steps `here` [N, k, 2] to places `there` [N, k, 2], and how far off these are [N, k].

    guess: [N, 2], where the step of no length comes to, at first.
    """
    lifted = torch.cat([here, torch.ones_like(here[..., :1])], dim=-1)  # [N, k, 3]
    unit = here.norm(dim=-1).median(1).values.clamp_min(1e-6)[:, None]
    affine = here.new_zeros(len(here), 3, 2)
    away = (there - guess[:, None] - here).norm(dim=-1)
    for _ in range(_ROUNDS):
        weights = (1 + (away / unit) ** 2) ** -2
        normal = torch.einsum("nk,nki,nkj->nij", weights, lifted, lifted) + 1e-6 * torch.eye(3)
        affine = torch.linalg.solve(normal, torch.einsum("nk,nki,nkj->nij", weights, lifted, there))
        away = (there - lifted @ affine).norm(dim=-1)
    return affine, away
