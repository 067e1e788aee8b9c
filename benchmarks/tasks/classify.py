"""Classification of whole pictures with few labels, beside random weights and a classical method.

    python -m benchmarks.tasks.classify

Classical: histograms of oriented gradients with a histogram of colours (Dalal and Triggs 2005). Everything ends in
logistic or ridge regression. Which of them, and which of `LOOKS` is read of a network, is what does best in
cross-validation on the training part; the test part decides nothing.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.gradients import describe
from benchmarks.tasks.models import run_alone
from dinokit.data.labelled import Labelled, open_labelled
from dinokit.data.track import silent
from dinokit.heads.classification_scores import main_score
from dinokit.heads.examples import Examples
from dinokit.heads.few_shot import measure_few_shot
from dinokit.heads.fit_classifier import Trained, fit_regression
from dinokit.heads.pooling import Pooling
from dinokit.heads.regression import REGRESSIONS, Kind
from dinokit.images.read import read
from dinokit.inference.backbone import Backbone
from dinokit.inference.cache import FeatureCache
from dinokit.inference.layers import layer_widths
from dinokit.tasks.classify import Classifier

SETS = ("caltech101", "rsscn7")
LOOKS = ((160, Pooling(4, 1)), (256, Pooling(4, 4)), (256, Pooling(4, 8, -4)), (256, Pooling(4, 8, -4, signed=True)))
"""Side in pixels, and what is read."""
FEW, DRAWS = 5, 3


def measure(models: Mapping[str, Backbone], data: Path) -> list[dict[str, Any]]:
    """A row for each data set and method: top-1 in per cent with all training pictures, and with 5 of each class."""
    rows = []
    for name in SETS:
        train, test = (open_labelled(data / name / f"{part}.tar.gz") for part in ("train", "test"))
        test = test.in_classes(train.classes, several=False)
        known = gradients(train)
        rows.append(_row(name, "HOG + colours", "", *_best_regression(known), known, gradients(test)))
        for model, backbone in models.items():
            rows.append(_best_look(name, model, backbone, train, test))
    return rows


def gradients(pictures: Labelled) -> Examples:
    """Histograms of oriented gradients and of colours: [N, 1892]."""
    vectors = torch.stack(
        [torch.from_numpy(describe(read(pictures.pictures.read_bytes(i)))) for i in range(len(pictures))]
    )
    return Examples(vectors, pictures.targets(), Pooling(1, 0), vectors.shape[1:])


def _best_look(name: str, model: str, backbone: Backbone, train: Labelled, test: Labelled) -> dict[str, Any]:
    cache = FeatureCache()
    found: dict[tuple[int, Pooling], tuple[Kind, Trained, Classifier, Examples]] = {}
    for size, pooling in LOOKS:
        classifier = Classifier(backbone, size, features=pooling)
        widths = tuple(layer_widths(backbone, classifier.look.layers))
        known = Examples(classifier.vectors(train, cache), train.targets(), classifier.pooling, widths)
        print(f"{name}, {model} at {size} px, {pooling}", flush=True)
        found[size, pooling] = (*_best_regression(known), classifier, known)
    (size, pooling), (kind, trained, classifier, known) = max(found.items(), key=lambda item: item[1][1].score)
    judged = Examples(classifier.vectors(test, cache), test.targets(), classifier.pooling, known.widths)
    signed = ", signed" if pooling.signed else ""
    look = f"{size} px, {pooling.cells} x {pooling.cells}, block {pooling.layer}{signed}"
    return _row(name, model, look, kind, trained, known, judged)


def _best_regression(train: Examples) -> tuple[Kind, Trained]:
    fitted = {kind: fit_regression(kind, train, None, silent) for kind in REGRESSIONS}
    for kind, trained in fitted.items():
        print(f"  {kind}: {trained.score:.1f} % in cross-validation", flush=True)
    return max(fitted.items(), key=lambda item: item[1].score)


def _row(
    name: str, what: str, look: str, kind: Kind, trained: Trained, train: Examples, test: Examples
) -> dict[str, Any]:
    logits = trained.head(test.vectors)
    [few] = measure_few_shot(train, test, [FEW], DRAWS, kind, silent)
    row = {
        "job": "classify",
        "on": name,
        "what": what,
        "look": look,
        "method": kind,
        "top1": round(main_score(logits.numpy(), test.targets, several=False), 1),
        "few_top1": round(few.mean, 1),
        "few_deviation": round(few.deviation, 1),
    }
    print(row, flush=True)
    return row


if __name__ == "__main__":
    run_alone(measure)
