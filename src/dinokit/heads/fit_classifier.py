"""From vectors and targets to a calibrated head, by each of the methods: what they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from dinokit.data.track import Track
from dinokit.heads.classification_scores import main_score
from dinokit.heads.classifiers import ClassifierHead, NeighbourClassifier, calibrate
from dinokit.heads.examples import Examples
from dinokit.heads.fit import FitSettings
from dinokit.heads.linear_probe import SETTINGS, fit_probe
from dinokit.heads.pooling import Pooling
from dinokit.heads.probe import NEIGHBOURS
from dinokit.heads.regression import REGRESSIONS, Kind, choose_strength, choose_strength_on

Method = Literal["logistic", "ridge", "linear", "knn"]
_HELD_OUT = 0.1


@dataclass(frozen=True)
class Trained:
    """A head, and how it was chosen."""

    head: ClassifierHead
    pooling: Pooling
    """The input that the head takes."""
    score: float
    """Top-1, with several labels mean average precision, per cent: on the validation pictures or, without any, on
    parts that were held out in turn."""
    chosen: str
    """In words."""
    scores: dict[str, float]
    """Of all that were compared."""
    temperature: float

    def to_row(self) -> dict[str, Any]:
        """For JSON."""
        return {"score": round(self.score, 2), "chosen": self.chosen, "temperature": round(self.temperature, 4)}

    def describe(self, several: bool) -> str:
        """In words; several: whether pictures may have several labels."""
        measure = "mean average precision" if several else "top-1"
        return f"{measure} {self.score:.1f} % on held-out pictures with {self.chosen}"


def fit_regression(kind: Kind, train: Examples, validation: Examples | None, track: Track) -> Trained:
    """Logistic or ridge regression; the last fit is on the training and the validation pictures, as published."""
    vectors, targets, several = train.vectors, train.targets, train.several
    if validation is None:
        chosen, judged = choose_strength(kind, vectors, targets, several, track), targets
    else:
        pair = (validation.vectors, validation.targets)
        chosen, judged = choose_strength_on(kind, vectors, targets, pair, several, track), validation.targets
        vectors, targets = torch.cat([vectors, pair[0]]), np.concatenate([targets, pair[1]])
    head = REGRESSIONS[kind](vectors, targets, several).fit(chosen.strength)
    temperature = calibrate(head, chosen.logits, judged, several)
    scores = {f"C = {strength:g}": score for strength, score in chosen.scores.items()}
    return Trained(head, train.pooling, chosen.score, f"C = {chosen.strength:g}", scores, temperature)


def fit_neighbours(train: Examples, validation: Examples | None, k: int | None) -> Trained:
    """The bank of a vote of k; judged on the validation pictures, or on each picture by the others."""
    k = min(NEIGHBOURS, len(train.vectors)) if k is None else k
    head = NeighbourClassifier(train.vectors, torch.from_numpy(train.targets), k, several=train.several)
    judged = train if validation is None else validation
    logits = head.logits_without_oneself() if validation is None else head(judged.vectors)
    score = main_score(logits.numpy(), judged.targets, train.several)
    temperature = calibrate(head, logits, judged.targets, train.several)
    return Trained(head, train.pooling, score, f"k = {k}", {f"k = {k}": score}, temperature)


def fit_linear(
    train: Examples,
    validation: Examples | None,
    track: Track,
    settings: FitSettings | None,
    keep: Path | None,
    identity: str,
) -> Trained:
    """The published sweep; without validation pictures, a tenth of each class is held out for it."""
    settings = settings or SETTINGS
    if validation is None:
        rest, tenth = _hold_out(train, settings.seed)
        train, validation = train.part(rest), train.part(tenth)
    probe = fit_probe(train, validation, track, settings, keep=keep, identity=identity)
    with torch.no_grad():
        logits = probe.head(validation.vectors[:, train.columns(probe.pooling)])
    temperature = calibrate(probe.head, logits, validation.targets, train.several)
    return Trained(probe.head, probe.pooling, probe.score, probe.name, probe.scores, temperature)


def _hold_out(train: Examples, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places of the others, and of a tenth of each class (of all, with several labels), one at least."""
    random = np.random.default_rng(seed)
    groups: Sequence[NDArray[np.int64]] = [np.arange(len(train.targets))]
    if not train.several:
        groups = [np.flatnonzero(column) for column in train.targets.T]
    held = np.concatenate([random.permutation(group)[: max(round(_HELD_OUT * len(group)), 1)] for group in groups])
    return np.setdiff1d(np.arange(len(train.targets)), held), np.sort(held)
