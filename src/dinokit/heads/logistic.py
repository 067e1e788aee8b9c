"""Logistic regression on frozen features (scikit-learn, L2), its strength chosen by cross-validation.

The published strengths are 45 even steps of the exponent from 1e-6 to 1e5, of which every fourth is tried, from strong
to weak regularisation, until the score falls for good. The published split of a tenth is folds here, so that few
pictures give a choice too. Vectors are standardised; the head that comes out takes them as they are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, StratifiedKFold
from torch import Tensor

from dinokit.data.track import Track
from dinokit.heads.classification_scores import main_score
from dinokit.heads.classifiers import LinearClassifier

Values = NDArray[np.float32]
Targets = NDArray[np.bool_]

STRENGTHS = tuple(float(10.0**exponent) for exponent in np.linspace(-6, 5, 45)[::4])
"""scikit-learn's C: larger is weaker."""
UNCHOSEN = 0.1
"""The strength where there is nothing to choose it by."""
_ENOUGH = 0.1
"""Below, scores rise and fall by chance while all vectors of a class still pull the same way."""
FOLDS = 3
_ITERATIONS, _TOLERANCE = 1000, 1e-3
_NEVER = -10.0
"""The logit of a class that had no picture to learn from."""


@dataclass(frozen=True)
class Chosen:
    """A strength, and how good it was on the parts that were held out."""

    strength: float
    score: float
    """Top-1 or mean average precision, per cent."""
    logits: Tensor
    """[N, K] of each vector, from the head that did not learn from it."""
    scores: dict[float, float]
    """Of every strength that was tried."""


class LogisticPath:
    """Logistic regressions of one set of vectors [N, F] and targets [N, K], each begun where the last one ended."""

    def __init__(self, vectors: Tensor, targets: Targets, several: bool) -> None:
        values = vectors.numpy()
        self.mean, deviation = values.mean(0), values.std(0)
        self.scale = 1 / np.where(deviation > 1e-6, deviation, 1.0).astype(np.float32)
        self.values: Values = (values - self.mean) * self.scale
        self.targets, self.several = targets, several
        count = targets.shape[1] if several else 1
        options = {"warm_start": True, "max_iter": _ITERATIONS, "tol": _TOLERANCE}
        self.models = [LogisticRegression(**options) for _ in range(count)]

    def fit(self, strength: float) -> LinearClassifier:
        """The head of this strength, for vectors as they come."""
        weight = np.zeros((self.targets.shape[1], self.values.shape[1]))
        bias = np.full(self.targets.shape[1], _NEVER)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # of the weakest regularisation, which is not chosen
            for number, model in enumerate(self.models):
                labels = self.targets[:, number] if self.several else self.targets.argmax(1)
                known = np.unique(labels)
                if len(known) < 2:  # all of them, or none
                    places, bias[number] = np.array([], dtype=int), -_NEVER if known[0] else _NEVER
                    continue
                model.C = strength
                model.fit(self.values, labels)
                places = np.array([number]) if self.several else known
                weight[places], bias[places] = _rows(model.coef_, model.intercept_, len(places))
        weight = weight * self.scale
        return LinearClassifier.of(torch.from_numpy(weight), torch.from_numpy(bias - weight @ self.mean))


def choose_strength(vectors: Tensor, targets: Targets, several: bool, track: Track) -> Chosen:
    """The strength that is best over the folds. Each class needs two vectors."""
    smallest = len(targets) if several else int(targets.sum(0).min())
    splitter = (KFold if several else StratifiedKFold)(min(FOLDS, smallest), shuffle=True, random_state=0)
    folds = list(splitter.split(vectors, None if several else targets.argmax(1)))
    paths = [LogisticPath(vectors[part], targets[part], several) for part, _ in folds]

    def held_out(strength: float) -> Tensor:
        logits = torch.zeros(targets.shape)
        for path, (_, rest) in zip(paths, folds, strict=True):
            logits[rest] = path.fit(strength)(vectors[rest])
        return logits

    return _best(held_out, targets, several, track)


def choose_strength_on(
    vectors: Tensor, targets: Targets, validation: tuple[Tensor, Targets], several: bool, track: Track
) -> Chosen:
    """The strength that is best on other vectors and their targets."""
    path = LogisticPath(vectors, targets, several)
    return _best(lambda strength: path.fit(strength)(validation[0]), validation[1], several, track)


def _best(held_out: Callable[[float], Tensor], targets: Targets, several: bool, track: Track) -> Chosen:
    """Try the strengths in turn; from `_ENOUGH` on, until two in succession are worse than the best."""
    best: Chosen | None = None
    scores: dict[float, float] = {}
    for strength in track(STRENGTHS, len(STRENGTHS), "choosing the strength"):
        logits = held_out(strength)
        scores[strength] = main_score(logits.numpy(), targets, several)
        if best is None or scores[strength] > best.score:
            best = Chosen(strength, scores[strength], logits, scores)
        elif strength >= _ENOUGH and all(score < best.score for score in list(scores.values())[-2:]):
            break
    assert best is not None
    return best


def _rows(weight: NDArray[np.float64], bias: NDArray[np.float64], classes: int) -> tuple[Any, Any]:
    """Of two classes, scikit-learn gives the difference alone."""
    if len(weight) == classes:
        return weight, bias
    return np.concatenate([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
