"""Linear heads by regression on frozen features (L2), their strength chosen by cross-validation.

Two of them. Logistic regression is the published one. Ridge regression, of +1 for the class and -1 for the others, is
solved at once for all strengths; with few pictures and long vectors it is often the better one. Vectors are
standardised; the head that comes out takes them as they are.

The published strengths are 45 even steps of the exponent from 1e-6 to 1e5, of which every fourth is tried, from strong
to weak regularisation, until the score falls for good. The published split of a tenth is folds here, so that few
pictures give a choice too.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, StratifiedKFold
from torch import Tensor

from dinokit.data.track import Track
from dinokit.errors import UserError
from dinokit.heads.classification_scores import main_score
from dinokit.heads.classifiers import LinearClassifier

Values = NDArray[np.float32]
Targets = NDArray[np.bool_]
Kind = Literal["logistic", "ridge"]

STRENGTHS = tuple(float(10.0**exponent) for exponent in np.linspace(-6, 5, 45)[::4])
"""scikit-learn's C: larger is weaker. For ridge its alpha is F / C, which serves vectors of any length alike."""
FOLDS = 3
_ENOUGH = 0.1
"""Below, scores rise and fall by chance while all vectors of a class still pull the same way."""
_ITERATIONS, _TOLERANCE = 1000, 1e-4
_NEVER = -10.0
"""The logit of a class that had no picture to learn from."""
_MOST = 8_192
"""Rows of a matrix that a ridge regression takes apart: two minutes, and 2 GiB."""
_FEW, _LONG = 2_000, 2
"""Up to how many vectors, from how many times as long on, logistic regression is faster by their coordinates."""
_FLAT = 1e-7
"""Directions with less of the largest variance are noise of float32."""


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


class Regression(ABC):
    """Regressions, one for each strength, of one set of vectors [N, F] on targets [N, K]."""

    unchosen: ClassVar[float]
    """The strength where there is nothing to choose it by."""

    def __init__(self, vectors: Tensor, targets: Targets, several: bool) -> None:
        values = vectors.numpy()
        mean, deviation = values.mean(0, dtype=np.float64), values.std(0, dtype=np.float64)
        varies = deviation > 1e-6 * np.maximum(np.abs(mean), 1)
        self.mean = mean.astype(np.float32)
        self.scale = np.where(varies, 1 / np.where(varies, deviation, 1), 0).astype(np.float32)
        self.values: Values = (values - self.mean) * self.scale
        self.targets, self.several = targets, several

    @abstractmethod
    def fit(self, strength: float) -> LinearClassifier:
        """The head of this strength, for vectors as they come."""

    def _head(self, weight: NDArray[Any], bias: NDArray[Any]) -> LinearClassifier:
        """From weights [K, F] of the standardised vectors. A class that none has or all have is not learnt."""
        for bare, logit in ((~self.targets.any(0), _NEVER), (self.targets.all(0), -_NEVER)):
            weight[bare], bias[bare] = 0, logit
        weight = weight * self.scale
        return LinearClassifier.of(torch.from_numpy(weight), torch.from_numpy(bias - weight @ self.mean))


class Logistic(Regression):
    """Logistic regression (scikit-learn), each begun where the last one ended.

    Few and long vectors are taken by their principal coordinates: the same regression, faster.
    """

    unchosen = 0.1

    def __init__(self, vectors: Tensor, targets: Targets, several: bool) -> None:
        super().__init__(vectors, targets, several)
        self.axes: NDArray[Any] | None = None
        if len(self.values) <= _FEW and len(self.values) * _LONG <= self.values.shape[1]:
            self.values, self.axes = _principal(self.values)
        options = {"warm_start": True, "max_iter": _ITERATIONS, "tol": _TOLERANCE}
        self.models = [LogisticRegression(**options) for _ in range(targets.shape[1] if several else 1)]

    def fit(self, strength: float) -> LinearClassifier:
        weight = np.zeros((self.targets.shape[1], self.values.shape[1]))
        bias = np.zeros(self.targets.shape[1])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # of the weakest regularisation, which is not chosen
            for number, model in enumerate(self.models):
                labels = self.targets[:, number] if self.several else self.targets.argmax(1)
                known = np.unique(labels)
                if len(known) < 2 or not self.values.size:
                    continue
                model.C = strength
                model.fit(self.values, labels)
                places = np.array([number]) if self.several else known
                weight[places], bias[places] = _rows(model.coef_, model.intercept_, len(places))
        return self._head(weight if self.axes is None else weight @ self.axes, bias)


class Ridge(Regression):
    """Ridge regression by principal coordinates, which are found once for all strengths."""

    unchosen = 10.0

    def __init__(self, vectors: Tensor, targets: Targets, several: bool) -> None:
        check_ridge(*vectors.shape)
        super().__init__(vectors, targets, several)
        self.width = vectors.shape[1]
        self.values, self.axes = _principal(self.values)
        signs = 2 * targets.astype(np.float32) - 1
        self.bias = signs.mean(0)
        self.agreement = self.values.T @ (signs - self.bias)  # [axes, K]
        self.sizes = np.square(self.values).sum(0)[:, None]

    def fit(self, strength: float) -> LinearClassifier:
        weight = self.agreement / (self.sizes + self.width / strength)
        return self._head(weight.T @ self.axes, self.bias.copy())


def check_ridge(count: int, width: int) -> None:
    """Raise `UserError` where a ridge regression of `count` vectors of `width` numbers would take too much."""
    if min(count, width) > _MOST:
        what = f"ridge regression of {count} pictures with {width} numbers each is too large"
        raise UserError(what, f"take logistic, or read less of each picture: up to {_MOST} numbers")


def _principal(values: Values) -> tuple[Values, Values]:
    """Coordinates [N, R] on principal axes [R, F], which are orthonormal: values are coordinates @ axes.

    R is 0 where all vectors are alike.
    """
    wide = len(values) < values.shape[1]
    products = values @ values.T if wide else values.T @ values
    sizes, found = scipy.linalg.eigh(products.astype(np.float64), overwrite_a=True)
    kept = sizes > _FLAT * sizes[-1]
    sizes, found = np.sqrt(sizes[kept]), found[:, kept].astype(np.float32)
    if wide:
        return (found * sizes).astype(np.float32), (found / sizes).T.astype(np.float32) @ values
    return values @ found, found.T


REGRESSIONS: Mapping[Kind, type[Regression]] = {"logistic": Logistic, "ridge": Ridge}


def choose_strength(kind: Kind, vectors: Tensor, targets: Targets, several: bool, track: Track) -> Chosen:
    """The strength that is best over the folds. Each class needs two vectors."""
    smallest = len(targets) if several else int(targets.sum(0).min())
    splitter = (KFold if several else StratifiedKFold)(min(FOLDS, smallest), shuffle=True, random_state=0)
    folds = list(splitter.split(vectors, None if several else targets.argmax(1)))
    regressions = [REGRESSIONS[kind](vectors[part], targets[part], several) for part, _ in folds]

    def held_out(strength: float) -> Tensor:
        logits = torch.zeros(targets.shape)
        for regression, (_, rest) in zip(regressions, folds, strict=True):
            logits[rest] = regression.fit(strength)(vectors[rest])
        return logits

    return _best(held_out, targets, several, track)


def choose_strength_on(
    kind: Kind, vectors: Tensor, targets: Targets, validation: tuple[Tensor, Targets], several: bool, track: Track
) -> Chosen:
    """The strength that is best on other vectors and their targets."""
    regression = REGRESSIONS[kind](vectors, targets, several)
    return _best(lambda strength: regression.fit(strength)(validation[0]), validation[1], several, track)


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
