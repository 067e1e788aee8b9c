"""How well single patches tell what they show: ridge and kNN classification of frozen patches of street scenes.

PYTHONPATH=. python experiments/patch-losses/measure.py CAMVID MODEL...

CAMVID: a folder with train/ and val/, each images/NAME.jpg and masks/NAME.png of 480 x 360 px, 11 classes and 11 for
void. A patch's label is its most frequent class.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

import dinokit
from benchmarks.patches import Cells, describe_by, overlap

SIZE = (368, 480)
BANK = 10_000

Labelled = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Patch features [N, D] and labels [N]."""


def read_part(backbone: dinokit.Backbone, part: Path) -> Labelled:
    """Features and labels of all patches that are not void."""
    return Cells(part, describe_by(backbone), SIZE).flat()


def measure(model: str, data: Path) -> tuple[float, float, float]:
    """Ridge accuracy and mean intersection over union, kNN accuracy (k = 10, cosine), in per cent."""
    backbone = dinokit.load(model)
    (bank, bank_labels), (queries, labels) = (read_part(backbone, data / part) for part in ("train", "val"))
    scaler = StandardScaler().fit(bank)
    bank, queries = scaler.transform(bank), scaler.transform(queries)
    found = RidgeClassifier(alpha=100).fit(bank, bank_labels).predict(queries)
    chosen = np.random.default_rng(0).permutation(len(bank))[:BANK]
    neighbours = KNeighborsClassifier(10, metric="cosine").fit(bank[chosen], bank_labels[chosen])
    knn = neighbours.score(queries[::4], labels[::4])
    return 100 * float((found == labels).mean()), overlap(labels, found), 100 * float(knn)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("models", nargs="+")
    options = parser.parse_args()
    for model in options.models:
        accuracy, miou, knn = measure(model, options.data)
        print(f"| {model} | {accuracy:.1f} | {miou:.1f} | {knn:.1f} |", flush=True)


if __name__ == "__main__":
    main()
