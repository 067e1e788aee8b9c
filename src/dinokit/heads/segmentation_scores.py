"""How good a segmentation is: intersection over union per class, summed over all pictures (DINOv3, section 6)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SegmentationScore:
    """Per cent. A class that neither the labels nor the predictions have is NaN and left out of the mean."""

    miou: float
    pixel_accuracy: float
    mean_accuracy: float
    iou: tuple[float, ...]
    """One for each class."""
    classes: tuple[str, ...]

    def to_row(self) -> dict[str, float]:
        """The three means, rounded for tables."""
        means = {"miou": self.miou, "pixel_accuracy": self.pixel_accuracy, "mean_accuracy": self.mean_accuracy}
        return {name: round(value, 2) for name, value in means.items()}

    def by_class(self) -> dict[str, float | None]:
        """The intersection over union of each class, rounded; None where there is none."""
        values = zip(self.classes, self.iou, strict=True)
        return {name: None if math.isnan(value) else round(value, 2) for name, value in values}

    def describe(self) -> str:
        """The means, then a line for each class, for people."""
        rows = (f"{'–' if value is None else f'{value:.1f}':>6}  {name}" for name, value in self.by_class().items())
        return "\n".join((f"mean IoU {self.miou:.1f} %, pixel accuracy {self.pixel_accuracy:.1f} %", *rows))


class ConfusionMatrix:
    """Counts pixels by true and predicted class, picture after picture."""

    def __init__(self, classes: int) -> None:
        self.counts = np.zeros((classes, classes), dtype=np.int64)

    def add(self, labels: NDArray[np.integer], predicted: NDArray[np.integer], ignore: int) -> None:
        """Count the pixels of label maps [H, W]; those labelled `ignore` do not count."""
        kept = labels != ignore
        classes = len(self.counts)
        places = labels[kept].astype(np.int64) * classes + predicted[kept]
        self.counts += np.bincount(places, minlength=classes**2).reshape(classes, classes)

    def score(self, names: tuple[str, ...]) -> SegmentationScore:
        """What the counts so far say."""
        hits = np.diag(self.counts).astype(np.float64)
        true, predicted = self.counts.sum(1), self.counts.sum(0)
        with np.errstate(invalid="ignore", divide="ignore"):
            iou = 100 * hits / (true + predicted - hits)
            recall = 100 * hits / true
        total = max(int(self.counts.sum()), 1)
        return SegmentationScore(
            miou=_mean(iou),
            pixel_accuracy=100 * float(hits.sum()) / total,
            mean_accuracy=_mean(recall),
            iou=tuple(float(value) for value in iou),
            classes=names,
        )


def _mean(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")
