"""Weighted k-nearest-neighbour classification of frozen features, exact and in batches (DINOv3, section 6.2;
protocol of Wu et al. 2018: cosine similarity, votes weighted by exp(similarity / temperature)).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dinokit.errors import UserError
from dinokit.heads.similar import nearest


@dataclass(frozen=True)
class KnnAccuracy:
    """Share of the queries whose class is the first, or among the first five, in per cent."""

    top1: float
    top5: float


def check_neighbours(k: int, count: int) -> None:
    """Raise `UserError` if a bank of `count` pictures has no `k` neighbours."""
    if not 1 <= k <= count:
        raise UserError(f"k = {k} neighbours of a bank of {count} pictures", f"give 1 to {count}")


def knn_scores(
    bank: Tensor, labels: Tensor, queries: Tensor, *, classes: int, k: int = 20, temperature: float = 0.07
) -> Tensor:
    """Votes [Q, C] for the class of each query.

    bank [N, D] features with labels [N] in 0..C-1; queries [Q, D]. Raises `UserError` if k is not between 1 and N.
    """
    check_neighbours(k, len(bank))
    bank, queries = (F.normalize(vectors.float(), dim=-1) for vectors in (bank, queries))
    similarity, found = nearest(bank, queries, k)
    votes = torch.zeros(len(queries), classes, device=bank.device)
    return votes.scatter_add_(1, labels[found], (similarity / temperature).exp())


def knn_accuracy(
    bank: tuple[Tensor, Tensor], queries: tuple[Tensor, Tensor], *, k: int = 20, temperature: float = 0.07
) -> KnnAccuracy:
    """Accuracy of the vote on labelled queries; both are (features [N, D], labels [N])."""
    classes = int(max(bank[1].max(), queries[1].max())) + 1
    scores = knn_scores(bank[0], bank[1], queries[0], classes=classes, k=k, temperature=temperature)
    ranked = scores.topk(min(5, classes)).indices == queries[1][:, None]
    return KnnAccuracy(100 * ranked[:, 0].float().mean().item(), 100 * ranked.any(1).float().mean().item())
