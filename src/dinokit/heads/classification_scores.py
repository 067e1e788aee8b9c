"""How good a classification is: accuracies, mean average precision, and which class is taken for which."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dinokit.errors import UserError
from dinokit.images.charts import draw_matrix
from dinokit.images.draw import Pixels, sheet

Numbers = NDArray[np.floating]
Targets = NDArray[np.bool_]


@dataclass(frozen=True)
class Mistake:
    """A picture whose class was not seen, and what was said with confidence instead."""

    place: str
    picture: Pixels
    true: str
    said: str
    probability: float
    """Of what was said."""


@dataclass(frozen=True)
class ClassificationScore:
    """Per cent. Accuracies are NaN where pictures may have several labels."""

    top1: float
    top5: float
    """NaN for fewer than six classes."""
    mean_per_class: float
    """Mean of the accuracies of the classes that occur."""
    mean_ap: float
    """Mean over classes of the average precision (area below precision over recall)."""
    calibration_error: float
    """Mean distance of confidence and accuracy, over 15 bins of confidence."""
    by_class: dict[str, float]
    """Accuracy of each class that occurs; its average precision, where pictures may have several labels."""
    confusion: NDArray[np.int64]
    """[K, K]: pictures by true class (rows) and predicted class; with several labels, right ones on the diagonal."""
    classes: tuple[str, ...]
    mistakes: tuple[Mistake, ...] = ()
    """The worst, most confident first."""

    def to_row(self) -> dict[str, float | None]:
        """The means, rounded for tables; None where there is none."""
        names = ("top1", "top5", "mean_per_class", "mean_ap", "calibration_error")
        values = {name: getattr(self, name) for name in names}
        return {name: None if math.isnan(value) else round(value, 2) for name, value in values.items()}

    def describe(self) -> str:
        """The means in one line."""
        names = {"top1": "top-1", "top5": "top-5", "mean_per_class": "mean per class", "mean_ap": "mAP"}
        known = {text: value for name, text in names.items() if (value := self.to_row()[name]) is not None}
        return ", ".join(f"{text} {value:.1f} %" for text, value in known.items())

    def draw_confusion(self) -> Pixels:
        """The confusion matrix in colours, each row as shares of its class; names where there is room."""
        return draw_matrix(self.confusion, self.classes, "predicted", "true")

    def draw_mistakes(self) -> Pixels:
        """The worst mistakes on one page, with what was said and what is true. `UserError` where there is none."""
        if not self.mistakes:
            raise UserError("there are no mistakes to draw", "judge on more pictures")
        captions = [f"{m.said} {100 * m.probability:.0f} %\nis {m.true}" for m in self.mistakes]
        return sheet([m.picture for m in self.mistakes], captions)


def score_classification(
    probabilities: Numbers, targets: Targets, classes: tuple[str, ...], several: bool
) -> ClassificationScore:
    """Judge probabilities [N, K] against targets [N, K]."""
    precisions = average_precisions(probabilities, targets)
    confusion = np.zeros((len(classes), len(classes)), dtype=np.int64)
    if several:
        np.fill_diagonal(confusion, ((probabilities >= 0.5) & targets).sum(0))
        by_class = {name: 100 * float(p) for name, p in zip(classes, precisions, strict=True) if not math.isnan(p)}
        nan = float("nan")
        error = calibration_error(np.maximum(probabilities, 1 - probabilities), (probabilities >= 0.5) == targets)
        return ClassificationScore(nan, nan, nan, _mean(precisions), error, by_class, confusion, classes)
    true, said = targets.argmax(1), probabilities.argmax(1)
    np.add.at(confusion, (true, said), 1)
    counts = confusion.sum(1)
    recalls = 100 * np.diag(confusion) / np.maximum(counts, 1)
    present = counts > 0
    return ClassificationScore(
        top1=top_k(probabilities, true, 1),
        top5=top_k(probabilities, true, 5) if len(classes) > 5 else float("nan"),
        mean_per_class=float(recalls[present].mean()),
        mean_ap=_mean(precisions),
        calibration_error=calibration_error(probabilities.max(1), true == said),
        by_class={name: float(recalls[n]) for n, name in enumerate(classes) if present[n]},
        confusion=confusion,
        classes=classes,
    )


def main_score(logits: Numbers, targets: Targets, several: bool) -> float:
    """What heads are chosen by: top-1, or mean average precision; per cent."""
    return _mean(average_precisions(logits, targets)) if several else top_k(logits, targets.argmax(1), 1)


def top_k(scores: Numbers, true: NDArray[np.integer], k: int) -> float:
    """Share of the rows of scores [N, K] whose true class is among the first k, per cent; ties as in the scores."""
    ranked = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return 100 * float((ranked == true[:, None]).any(1).mean())


def average_precisions(scores: Numbers, targets: Targets) -> Numbers:
    """Average precision of each class [K], from 0 to 1: mean precision at the places of its pictures; NaN without any.

    Pictures with equal scores share one place.
    """
    found = np.full(targets.shape[1], np.nan)
    for n in range(targets.shape[1]):
        order = np.argsort(-scores[:, n], kind="stable")
        hits, ranked = targets[order, n], scores[order, n]
        if not hits.any():
            continue
        last = np.searchsorted(-ranked, -ranked, side="right")  # [N], pictures with this score or a higher one
        found[n] = (np.cumsum(hits)[last - 1] / last)[hits].mean()
    return found


def calibration_error(confidence: Numbers, right: Targets, bins: int = 15) -> float:
    """Expected calibration error, per cent (Guo et al. 2017)."""
    values, hits = confidence.ravel(), right.ravel()
    places = np.minimum((values * bins).astype(int), bins - 1)
    distance = [abs(float((values[places == b] - hits[places == b]).sum())) for b in range(bins)]
    return 100 * sum(distance) / len(values)


def _mean(values: Numbers) -> float:
    known = values[np.isfinite(values)]
    return 100 * float(known.mean()) if len(known) else float("nan")
