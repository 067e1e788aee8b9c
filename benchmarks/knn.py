"""kNN and linear accuracy of frozen features, beside random initialisation, raw pixels, gradients and colours.

    python -m benchmarks.knn [--model MODEL] [--sizes 128 160 192 224]

Weighted kNN (k = 20, T = 0.07); linear: logistic or ridge regression on standardised features, which of them and how
strong by cross-validation on the training part. Read are class tokens, at the size whose kNN is best on a tenth of
Imagenette's training pictures held out; of the sets with few training pictures also the patches of the block with the
sharpest maps, as `dinokit classify --cells 8 --signed` has them. The validation parts decide nothing. Rows that are in
the results already, of the same weights, are not measured again.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.data import data_folder
from benchmarks.gradients import SIDE, describe
from benchmarks.results import RESULTS, show, write
from benchmarks.tasks.models import both_models
from dinokit.data.labelled import open_labelled
from dinokit.data.listing import SkippedFiles
from dinokit.data.mixture import permutation
from dinokit.data.opening import open_pictures
from dinokit.data.store import decode_all
from dinokit.data.track import silent
from dinokit.heads.classification_scores import top_k
from dinokit.heads.knn import knn_accuracy
from dinokit.heads.probe import class_tokens
from dinokit.heads.regression import REGRESSIONS, Kind, choose_strength
from dinokit.images.read import read
from dinokit.inference.backbone import Backbone
from dinokit.inference.cache import FeatureCache
from dinokit.tasks.classify import Classifier, default_features

SETS = {
    "imagenette": ("imagenette/train-*.tar", "imagenette/val-*.tar"),
    "caltech101": ("caltech101/train.tar.gz", "caltech101/test.tar.gz"),
    "rsscn7": ("rsscn7/train.tar.gz", "rsscn7/test.tar.gz"),
}
FEW = ("caltech101", "rsscn7")
"""Sets with so few training pictures that vectors may be long."""
PIXEL_SIDE = 32
PATCHES_SIDE, PARTS = 256, 8

Labelled = tuple[Tensor, Tensor]
"""Features [N, D] and labels [N]."""


@dataclass(frozen=True)
class Row:
    """One line of the table; accuracies in per cent."""

    data: str
    features: str
    size: int
    knn: float
    linear: float
    regression: str
    weights: str = ""
    """First letters of the fingerprint of the model."""


def pixel_features(pattern: Path) -> Labelled:
    """Raw pixels of pictures squashed to 32 x 32, centred: [N, 3072]."""
    store = decode_all(open_pictures(pattern), PIXEL_SIDE)
    return store.pictures.flatten(1).float() / 255 - 0.5, store.labels


def gradient_features(pattern: Path) -> Labelled:
    """Histograms of oriented gradients and of colours: [N, 1892]."""
    pictures = open_pictures(pattern)
    vectors = [torch.from_numpy(describe(read(pictures.read_bytes(i)))) for i in range(len(pictures))]
    return torch.stack(vectors), torch.tensor([pictures.label(i) for i in range(len(pictures))])


def token_features(backbone: Backbone, size: int, pattern: Path) -> Labelled:
    """Class tokens of whole pictures at `size` x `size`: [N, D]."""
    tokens, labels = zip(*class_tokens(backbone, open_pictures(pattern), SkippedFiles(), size), strict=True)
    return torch.cat(tokens), torch.cat(labels)


def patch_features(backbone: Backbone, pattern: Path) -> Labelled:
    """Class tokens of four blocks and signed means of 8 x 8 parts of the sharpest maps: [N, 4 D + 128 D]."""
    read_of_it = default_features(backbone, "ridge", cells=PARTS, layer=backbone.info.map_layer, signed=True)
    pictures = open_labelled(pattern)
    vectors = Classifier(backbone, PATCHES_SIDE, features=read_of_it).vectors(pictures, FeatureCache())
    return vectors, torch.from_numpy(pictures.targets()).int().argmax(1)


def best_regression(bank: Labelled) -> tuple[Kind, float]:
    """Logistic or ridge regression, and its strength, by cross-validation on the bank."""
    found = {kind: choose_strength(kind, bank[0], one_hot(bank), False, silent) for kind in REGRESSIONS}
    kind, chosen = max(found.items(), key=lambda item: item[1].score)
    return kind, chosen.strength


def one_hot(labelled: Labelled) -> NDArray[np.bool_]:
    """[N, K]."""
    return torch.nn.functional.one_hot(labelled[1]).bool().numpy()


def evaluate(data: str, features: str, size: int, weights: str, describe: Callable[[Path], Labelled]) -> Row:
    """Both accuracies of one kind of features, as `describe` gives them for the pictures at a path, on one data set."""
    bank, queries = (describe(data_folder() / part) for part in SETS[data])
    kind, strength = best_regression(bank)
    logits = REGRESSIONS[kind](bank[0], one_hot(bank), several=False).fit(strength)(queries[0])
    linear = top_k(logits.numpy(), queries[1].numpy(), 1)
    return Row(data, features, size, knn_accuracy(bank, queries).top1, linear, f"{kind}, C = {strength:g}", weights)


class Model:
    """A backbone, and the size that class tokens are read at."""

    def __init__(self, name: str, backbone: Backbone, sizes: Sequence[int]) -> None:
        self.name, self.backbone, self.sizes = name, backbone, sizes
        self.weights = backbone.fingerprint[:12]

    @cached_property
    def size(self) -> int:
        """The one whose kNN is best on the held-out tenth of the training pictures of Imagenette."""
        return max(self.sizes, key=self._held_out)

    def _held_out(self, size: int) -> float:
        tokens, labels = token_features(self.backbone, size, data_folder() / SETS["imagenette"][0])
        order = torch.from_numpy(permutation(len(labels), 0))
        tenth, rest = order[: len(order) // 10], order[len(order) // 10 :]
        found = knn_accuracy((tokens[rest], labels[rest]), (tokens[tenth], labels[tenth])).top1
        print(f"{self.name} at {size} px: kNN {found:.1f} % on the held-out tenth", flush=True)
        return found


def measurements(data: str, models: Sequence[Model]) -> Iterator[tuple[tuple[str, str], Callable[[], Row]]]:
    """What the rows of a data set are called (features, weights), and how each is measured."""
    yield ("raw pixels", ""), lambda: evaluate(data, "raw pixels", PIXEL_SIDE, "", pixel_features)
    yield ("HOG + colours", ""), lambda: evaluate(data, "HOG + colours", SIDE, "", gradient_features)
    for model in models:
        yield (model.name, model.weights), partial(_tokens, data, model)
    for model in models if data in FEW else ():
        name, describe = f"{model.name}, patches", partial(patch_features, model.backbone)
        yield (name, model.weights), partial(evaluate, data, name, PATCHES_SIDE, model.weights, describe)


def _tokens(data: str, model: Model) -> Row:
    return evaluate(data, model.name, model.size, model.weights, partial(token_features, model.backbone, model.size))


def run(name: str, sizes: Sequence[int], sets: Sequence[str]) -> list[Row]:
    """All rows: raw pixels, gradients, random weights of the same network, the model."""
    models = [Model(each, backbone, sizes) for each, backbone in reversed(both_models(name).items())]
    known = {(row.data, row.features, row.weights): row for row in done()}
    rows = []
    for data in sets:
        for (features, weights), measure in measurements(data, models):
            place = (data, features, weights)
            if place not in known:
                known[place] = measure()
                print(known[place], flush=True)
                latest = {(row.data, row.features): vars(row) for row in known.values()}
                write("knn", {"rows": sorted(latest.values(), key=lambda row: list(SETS).index(row["data"]))})
            rows.append(known[place])
    return rows


def done() -> list[Row]:
    """What was measured before."""
    path = RESULTS / "knn.json"
    return [Row(**row) for row in json.loads(path.read_text())["rows"]] if path.is_file() else []


def main() -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="dinokit_vitt16")
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 160, 192, 224])
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    options = parser.parse_args()
    rows = run(options.model, options.sizes, options.sets)
    header = ("data", "features", "size", "kNN %", "linear %", "by", "weights")
    show("frozen features", header, [tuple(vars(row).values()) for row in rows])


if __name__ == "__main__":
    main()
