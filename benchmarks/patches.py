"""How well single frozen patches tell what they show: street scenes (CamVid, 11 classes), beside colour and place.

    python -m benchmarks.patches [--models MODEL ...]

A cell of 16 x 16 px has its most frequent class; void cells are left out. Logistic regression on standardised features
learns from the training frames at two sizes; its strength is chosen on every tenth of them. Mean intersection over
union of the cells of the validation frames. Colour and place: mean and deviation of the cell's colours, row, column,
and the products of two of these.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from benchmarks.data import data_folder
from benchmarks.results import show, write
from benchmarks.tasks.models import both_models
from dinokit.images.geometry import resize, to_tensor
from dinokit.images.read import read
from dinokit.inference.backbone import Backbone, load

SIZES = ((240, 320), (480, 640))
"""Height and width at which frames are read."""
PATCH = 16
VOID = 11
STRENGTHS = (1e-3, 1e-2, 1e-1)

Grid = tuple[int, int]
Describe = Callable[[list[Path], Grid], NDArray[np.float32]]
"""Features [frames, h, w, F] of the cells of pictures read at a size."""


def describe_by(backbone: Backbone) -> Describe:
    """Patch features of a backbone."""

    def describe(images: list[Path], size: Grid) -> NDArray[np.float32]:
        parts = [backbone.encode(images[i : i + 10], size=size).patches for i in range(0, len(images), 10)]
        return torch.cat(parts).float().numpy()

    return describe


def colour_and_place(images: list[Path], size: Grid) -> NDArray[np.float32]:
    """Of each cell: mean and deviation of its colours, its row and column from 0 to 1, and their products."""
    rows, columns = size[0] // PATCH, size[1] // PATCH
    place = np.stack(list(np.mgrid[0 : 1 : rows * 1j, 0 : 1 : columns * 1j]), axis=-1)
    found = []
    for image in images:
        pixels = resize(to_tensor(read(image)), size)[0].permute(1, 2, 0).float().numpy() / 255
        cells = pixels.reshape(rows, PATCH, columns, PATCH, 3)
        found.append(np.concatenate([cells.mean((1, 3)), cells.std((1, 3)), place], axis=-1))
    values = np.stack(found)
    products = PolynomialFeatures(2, include_bias=False).fit_transform(values.reshape(-1, values.shape[-1]))
    return np.float32(products).reshape(*values.shape[:-1], -1)


def cell_labels(mask: Path, size: Grid) -> NDArray[np.int64]:
    """The most frequent class of each cell of a mask: [h, w]."""
    pixels = np.asarray(Image.open(mask).resize(size[::-1], Image.Resampling.NEAREST))
    rows, columns = size[0] // PATCH, size[1] // PATCH
    cells = pixels.reshape(rows, PATCH, columns, PATCH).swapaxes(1, 2).reshape(rows, columns, -1)
    return np.stack([(cells == value).sum(-1) for value in range(VOID + 1)], -1).argmax(-1)


class Cells:
    """The cells of one part of the frames: features and labels by frame."""

    def __init__(self, part: Path, describe: Describe, size: Grid) -> None:
        images = sorted((part / "images").glob("*.jpg"))
        self.features = describe(images, size)
        self.labels = np.stack([cell_labels(part / "masks" / f"{image.stem}.png", size) for image in images])

    def flat(self, frames: slice | NDArray[np.bool_] = slice(None)) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """[N, F] and [N] of the cells of some frames that are not void."""
        known = self.labels[frames] != VOID
        return self.features[frames][known], self.labels[frames][known]


def probe(train: Cells, test: Cells) -> tuple[float, float, float]:
    """Accuracy and mean intersection over union in per cent, and the strength that was chosen."""
    held_out = np.arange(len(train.labels)) % 10 == 0
    parts = train.flat(~held_out), train.flat(held_out)
    strength = max(STRENGTHS, key=lambda c: overlap(parts[1][1], _classify(*parts[0], parts[1][0], c)))
    features, labels = test.flat()
    found = _classify(*train.flat(), features, strength)
    return 100 * float((found == labels).mean()), overlap(labels, found), strength


def _classify(
    known: NDArray[np.float32], labels: NDArray[np.int64], asked: NDArray[np.float32], strength: float
) -> NDArray[np.int64]:
    scaler = StandardScaler().fit(known)
    model = LogisticRegression(C=strength, max_iter=200, tol=1e-3).fit(scaler.transform(known), labels)
    found: NDArray[np.int64] = model.predict(scaler.transform(asked))
    return found


def overlap(labels: NDArray[np.int64], found: NDArray[np.int64]) -> float:
    """Mean over the classes of intersection over union, per cent."""
    counts = np.zeros((VOID, VOID), np.int64)
    np.add.at(counts, (labels, found), 1)
    both = counts.diagonal()
    return 100 * float((both / np.maximum(counts.sum(0) + counts.sum(1) - both, 1)).mean())


def main() -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", help="others than the bundled one and random weights; not written down")
    chosen = parser.parse_args().models
    models = both_models() if chosen is None else {name: load(name) for name in chosen}
    methods = {"colour + place": colour_and_place} | {name: describe_by(model) for name, model in models.items()}
    folder, rows = data_folder() / "camvid", list[dict[str, Any]]()
    for name, describe in methods.items():
        for size in SIZES:
            parts = [Cells(folder / part, describe, size) for part in ("train", "val")]
            accuracy, miou, strength = probe(*parts)
            rows.append({"features": name, "height": size[0], "accuracy": accuracy, "miou": miou, "strength": strength})
            print(rows[-1], flush=True)
    show("frozen patches of street scenes", list(rows[0]), [list(row.values()) for row in rows])
    if chosen is None:
        print(write("patches", {"rows": rows}))


if __name__ == "__main__":
    main()
