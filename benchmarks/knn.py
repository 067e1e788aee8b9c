"""kNN and linear accuracy of frozen class tokens, beside random initialisation, raw pixels, gradients and colours.

    python -m benchmarks.knn [--model MODEL] [--sizes 128 160 192 224]

Weighted kNN (k = 20, T = 0.07); linear: logistic regression on standardised tokens. The reading size and the
regression's strength are chosen on a tenth of the training pictures held out, never on the validation part. Rows that
are in the results already, of the same weights, are not measured again.
"""

import argparse
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from benchmarks.data import data_folder
from benchmarks.gradients import SIDE, describe
from benchmarks.results import RESULTS, show, write
from dinokit.backbones.catalog import NETWORKS
from dinokit.data.listing import SkippedFiles
from dinokit.data.mixture import permutation
from dinokit.data.opening import open_pictures
from dinokit.data.store import decode_all
from dinokit.heads.knn import knn_accuracy
from dinokit.heads.probe import class_tokens
from dinokit.images.read import read
from dinokit.inference.backbone import load

SETS = {
    "imagenette": ("imagenette/train-*.tar", "imagenette/val-*.tar"),
    "caltech101": ("caltech101/train.tar.gz", "caltech101/test.tar.gz"),
    "rsscn7": ("rsscn7/train.tar.gz", "rsscn7/test.tar.gz"),
}
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
PIXEL_SIDE = 32

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
    strength: float
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


def token_features(model: str, pattern: Path, size: int) -> Labelled:
    """Class tokens of whole pictures at `size` x `size`: [N, D]."""
    tokens, labels = zip(*class_tokens(load(model), open_pictures(pattern), SkippedFiles(), size), strict=True)
    return torch.cat(tokens), torch.cat(labels)


def linear_accuracy(bank: Labelled, queries: Labelled, strength: float) -> float:
    """Top-1 in per cent of a logistic regression on standardised features."""
    scaler = StandardScaler().fit(bank[0].numpy())
    model = LogisticRegression(C=strength, max_iter=300)
    warnings.simplefilter("ignore", ConvergenceWarning)  # of the weakest regularisation, which is not what is chosen
    model.fit(scaler.transform(bank[0].numpy()), bank[1].numpy())
    return 100 * float(model.score(scaler.transform(queries[0].numpy()), queries[1].numpy()))


def split(labelled: Labelled) -> tuple[Labelled, Labelled]:
    """Nine tenths and the held-out tenth."""
    order = torch.from_numpy(permutation(len(labelled[0]), 0))
    tenth, rest = order[: len(order) // 10], order[len(order) // 10 :]
    return (labelled[0][rest], labelled[1][rest]), (labelled[0][tenth], labelled[1][tenth])


def choose_strength(bank: Labelled) -> float:
    """The regression strength that does best on the held-out tenth: tried from small to large until it gets worse."""
    rest, tenth = split(bank)
    best, accuracy = STRENGTHS[0], 0.0
    for strength in STRENGTHS:
        found = linear_accuracy(rest, tenth, strength)
        if found < accuracy:
            break
        best, accuracy = strength, found
    return best


def evaluate(data: str, features: str, size: int, weights: str, describe: Callable[[Path], Labelled]) -> Row:
    """Both accuracies of one kind of features, as `describe` gives them for the pictures at a path, on one data set."""
    bank, queries = (describe(data_folder() / part) for part in SETS[data])
    strength = choose_strength(bank)
    knn = knn_accuracy(bank, queries).top1
    return Row(data, features, size, knn, linear_accuracy(bank, queries, strength), strength, weights)


def choose_size(model: str, pattern: Path, sizes: Sequence[int]) -> int:
    """The reading size whose kNN is best on the held-out tenth of the training pictures."""

    def accuracy(size: int) -> float:
        rest, tenth = split(token_features(model, pattern, size))
        found = knn_accuracy(rest, tenth).top1
        print(f"{model} at {size} px: kNN {found:.1f} % on the held-out tenth", flush=True)
        return found

    return max(sizes, key=accuracy)


def run(model: str, sizes: Sequence[int], sets: Sequence[str]) -> list[Row]:
    """All rows: raw pixels, gradients, random weights of the same network (if the catalogue has it), the model."""
    network = load(model).info.name
    names = [*([f"random:{network}"] if network in NETWORKS else []), model]
    weights = {name: load(name).fingerprint[:12] for name in names}
    if len(names) == 1:
        print(f"{model} is called {network}, which the catalogue does not know: no row of random weights", flush=True)
    rows, chosen = {(row.data, row.features, row.weights): row for row in done()}, dict[str, int]()
    kinds = [("raw pixels", ""), ("HOG + colours", ""), *weights.items()]
    for data, (features, own) in product(sets, kinds):
        if (data, features, own) in rows:
            continue
        if own and features not in chosen:
            chosen[features] = choose_size(features, data_folder() / SETS["imagenette"][0], sizes)
        if own:
            size = chosen[features]
            row = evaluate(data, features, size, own, partial(token_features, features, size=size))
        elif features == "raw pixels":
            row = evaluate(data, features, PIXEL_SIDE, "", pixel_features)
        else:
            row = evaluate(data, features, SIDE, "", gradient_features)
        rows[data, features, own] = row
        print(row, flush=True)
        latest = {(row.data, row.features): vars(row) for row in rows.values()}
        write("knn", {"rows": sorted(latest.values(), key=lambda row: list(SETS).index(row["data"]))})
    return [rows[data, features, own] for data, (features, own) in product(sets, kinds)]


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
    header = ("data", "features", "size", "kNN %", "linear %", "strength", "weights")
    show("frozen class tokens", header, [tuple(vars(row).values()) for row in rows])


if __name__ == "__main__":
    main()
