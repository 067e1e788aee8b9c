"""How well single patches tell what they show: ridge and kNN classification of frozen patches of street scenes.

python experiments/patch-losses/measure.py CAMVID MODEL...

CAMVID: a folder with train/ and val/, each images/NAME.jpg and masks/NAME.png of 480 x 360 px, 11 classes and 11 for
void. A patch's label is its most frequent class.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

import dinokit

SIZE = (368, 480)
PATCH = 16
VOID = 11
BANK = 10_000

Labelled = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Patch features [N, D] and labels [N]."""


def patch_labels(mask: Path) -> NDArray[np.int64]:
    """The most frequent class of each patch of a mask: [h, w]."""
    pixels = np.asarray(Image.open(mask).resize(SIZE[::-1], Image.Resampling.NEAREST))
    rows, columns = SIZE[0] // PATCH, SIZE[1] // PATCH
    cells = pixels.reshape(rows, PATCH, columns, PATCH).swapaxes(1, 2).reshape(rows, columns, -1)
    return np.stack([(cells == value).sum(-1) for value in range(VOID + 1)], -1).argmax(-1)


def read_part(backbone: dinokit.Backbone, part: Path) -> Labelled:
    """Features and labels of all patches that are not void."""
    images = sorted((part / "images").glob("*.jpg"))
    labels = np.stack([patch_labels(part / "masks" / f"{image.stem}.png") for image in images]).ravel()
    blocks = [backbone.encode(images[i : i + 10], size=SIZE).patches for i in range(0, len(images), 10)]
    features = torch.cat([block.flatten(0, 2) for block in blocks]).numpy()
    return features[labels != VOID], labels[labels != VOID]


def measure(model: str, data: Path) -> tuple[float, float, float]:
    """Ridge accuracy and mean intersection over union, kNN accuracy (k = 10, cosine), in per cent."""
    backbone = dinokit.load(model)
    (bank, bank_labels), (queries, labels) = (read_part(backbone, data / part) for part in ("train", "val"))
    scaler = StandardScaler().fit(bank)
    bank, queries = scaler.transform(bank), scaler.transform(queries)
    found = RidgeClassifier(alpha=100).fit(bank, bank_labels).predict(queries)
    counts = np.zeros((VOID, VOID), np.int64)
    np.add.at(counts, (labels, found), 1)
    overlap = counts.diagonal() / np.maximum(counts.sum(0) + counts.sum(1) - counts.diagonal(), 1)
    chosen = np.random.default_rng(0).permutation(len(bank))[:BANK]
    neighbours = KNeighborsClassifier(10, metric="cosine").fit(bank[chosen], bank_labels[chosen])
    knn = neighbours.score(queries[::4], labels[::4])
    return 100 * float((found == labels).mean()), 100 * float(overlap.mean()), 100 * float(knn)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("models", nargs="+")
    options = parser.parse_args()
    for model in options.models:
        accuracy, overlap, knn = measure(model, options.data)
        print(f"| {model} | {accuracy:.1f} | {overlap:.1f} | {knn:.1f} |", flush=True)


if __name__ == "__main__":
    main()
