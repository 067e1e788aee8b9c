"""Heads that give a vector its classes: a linear map, or the vote of the nearest neighbours in a bank.

Both give logits, and both know the temperature that makes probabilities of them which can be believed (Guo et al.,
"On calibration of modern neural networks", 2017): softmax, or for several labels the logistic function of each class.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from dinokit.errors import UserError
from dinokit.heads.knn import check_neighbours
from dinokit.heads.similar import nearest

_SMALLEST = 1e-4
"""The least share of a vote: a class without neighbours is unlikely, not impossible."""


class ClassifierHead(nn.Module):
    """Vectors [B, F] -> logits [B, K], and the temperature that divides them."""

    temperature: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("temperature", torch.ones(()))

    @torch.no_grad()
    def probabilities(self, vectors: Tensor, several: bool) -> Tensor:
        """[B, K]: they sum to 1, or with `several` labels each stands for itself."""
        logits = self(vectors) / self.temperature
        found: Tensor = logits.sigmoid() if several else logits.softmax(dim=1)
        return found


class LinearClassifier(ClassifierHead):
    """weight [K, F] and bias [K], as published classifiers have them."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(classes, width))
        self.bias = nn.Parameter(torch.zeros(classes))

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor) -> LinearClassifier:
        """The head with this weight and bias."""
        head = cls(weight.shape[1], weight.shape[0])
        head.load_state_dict({"weight": weight.float(), "bias": bias.float(), "temperature": torch.ones(())})
        return head.eval().requires_grad_(False)

    def forward(self, vectors: Tensor) -> Tensor:
        return F.linear(vectors, self.weight, self.bias)


class NeighbourClassifier(ClassifierHead):
    """A bank of vectors [N, F] with their classes [N, K]; k of them vote, with softmax(cosine / sharpness)."""

    bank: Tensor
    targets: Tensor

    def __init__(self, bank: Tensor, targets: Tensor, k: int = 20, sharpness: float = 0.07, several: bool = False):
        super().__init__()
        check_neighbours(k, len(bank))
        self.k, self.sharpness, self.several = k, sharpness, several
        self.register_buffer("bank", F.normalize(bank.float(), dim=1))
        self.register_buffer("targets", targets.float())

    def forward(self, vectors: Tensor) -> Tensor:
        return self._logits(self._votes(*nearest(self.bank, F.normalize(vectors.float(), dim=-1), self.k)))

    def logits_without_oneself(self) -> Tensor:
        """What the others say of each vector of the bank: [N, K]."""
        k = min(self.k + 1, len(self.bank))
        similarity, found = nearest(self.bank, self.bank, k)
        itself = found == torch.arange(len(self.bank), device=found.device)[:, None]
        return self._logits(self._votes(similarity.masked_fill(itself, -math.inf), found))

    def _votes(self, similarity: Tensor, found: Tensor) -> Tensor:
        weights = (similarity / self.sharpness).softmax(dim=1)
        votes = [(w[:, None] @ self.targets[f])[:, 0] for w, f in zip(weights.split(64), found.split(64), strict=True)]
        return torch.cat(votes)  # [B, K]

    def _logits(self, votes: Tensor) -> Tensor:
        shares = votes.clamp(_SMALLEST, 1 - _SMALLEST)
        return shares.logit() if self.several else shares.log()


def calibrate(head: ClassifierHead, logits: Tensor, targets: NDArray[np.bool_], several: bool) -> float:
    """Set the temperature to what makes `targets` [N, K] most likely; logits [N, K] of vectors that were held out.

    Returns it. It lies between a hundredth and a hundred times the deviation of the logits.
    """
    scale = math.log(max(float(logits.std()), 1e-12))
    wanted = torch.from_numpy(targets).float()

    def surprise(log_temperature: float) -> float:
        scaled = logits.double() / math.exp(log_temperature)
        if several:
            return float(F.binary_cross_entropy_with_logits(scaled, wanted.double()))
        return float(F.cross_entropy(scaled, wanted.argmax(dim=1)))

    found = minimize_scalar(surprise, bounds=(scale - math.log(100), scale + math.log(100)), method="bounded")
    head.temperature.fill_(math.exp(found.x))
    return float(head.temperature)


def check_vectors(vectors: Tensor, name: str) -> None:
    """Raise `UserError` if a number is not finite."""
    if not bool(vectors.isfinite().all()):
        row = int((~vectors.isfinite().all(dim=1)).nonzero()[0, 0])
        raise UserError(f"the features of picture {row} of {name} are not finite", "take fp32, or check the model")
