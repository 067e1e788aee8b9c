"""Semantic segmentation of street scenes (CamVid, 11 classes): linear heads beside colour and position.

python -m benchmarks.tasks.segment
"""

import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from benchmarks.tasks.models import run_alone
from dinokit.data.masks import IGNORE, Masks, name_classes
from dinokit.data.pairs import Pairs, open_pairs
from dinokit.heads.fit import FitSettings
from dinokit.heads.segmentation_scores import ConfusionMatrix
from dinokit.inference.backbone import Backbone
from dinokit.tasks.segment import Segmenter

SEEDS = (0, 1, 2)
SIZE, LAYERS, SETTINGS = 512, (-4, -3, -2, -1), {"steps": 600, "lr": 5e-3}
"""Chosen on the last 30 training frames, learning from the others: 512 or 736 px, four layers, learning rates."""
PIXELS = 400
"""Of each training picture, for the classical baseline."""


def measure(models: Mapping[str, Backbone], data: Path) -> list[dict[str, Any]]:
    """Mean IoU and pixel accuracy on the validation pictures, mean and deviation over three seeds.

    fit_s: seconds of the slowest training, features included where they are new.
    """
    folder = data / "camvid"
    rows = [_row(name, [_fit(backbone, folder, seed) for seed in SEEDS]) for name, backbone in models.items()]
    return [*rows, _row("colour + position", [_colour_and_position(folder, seed) for seed in SEEDS])]


def _row(name: str, scores: list[tuple[float, float, float]]) -> dict[str, Any]:
    miou, accuracy, seconds = (list(values) for values in zip(*scores, strict=True))
    return {
        "job": "segment",
        "on": "camvid val",
        "what": name,
        "miou": round(statistics.mean(miou), 2),
        "±": round(statistics.stdev(miou), 2),
        "pixel_accuracy": round(statistics.mean(accuracy), 2),
        "fit_s": round(max(seconds)),
    }


def _fit(backbone: Backbone, folder: Path, seed: int) -> tuple[float, float, float]:
    segmenter, started = Segmenter(backbone, SIZE, LAYERS), time.perf_counter()
    segmenter.fit(folder / "train", settings=FitSettings(seed=seed, **SETTINGS))
    seconds = time.perf_counter() - started
    score = segmenter.evaluate(folder / "val")
    return score.miou, score.pixel_accuracy, seconds


def _colour_and_position(folder: Path, seed: int) -> tuple[float, float, float]:
    """Gradient-boosted trees on a pixel's colour, the colours around it and its place."""
    train, checked, started = open_pairs(folder / "train"), open_pairs(folder / "val"), time.perf_counter()
    masks, generator = Masks(train), np.random.default_rng(seed)
    inputs, labels = [], []
    for i, mask in enumerate(masks):
        known = np.flatnonzero(mask.ravel() != IGNORE)
        drawn = generator.choice(known, PIXELS)
        inputs.append(_describe(train, i).reshape(-1, 8)[drawn])
        labels.append(mask.ravel()[drawn])
    trees = HistGradientBoostingClassifier(random_state=seed)
    trees.fit(np.concatenate(inputs), np.concatenate(labels))
    seconds, names = time.perf_counter() - started, name_classes(masks)
    matrix = ConfusionMatrix(len(names))
    for i, mask in enumerate(Masks(checked)):
        coarse = _describe(checked, i)[::4, ::4]
        found = trees.predict(coarse.reshape(-1, 8)).reshape(coarse.shape[:2])
        whole = found.repeat(4, axis=0).repeat(4, axis=1)[: mask.shape[0], : mask.shape[1]]
        matrix.add(mask, whole, IGNORE)
    score = matrix.score(names)
    return score.miou, score.pixel_accuracy, seconds


def _describe(pairs: Pairs, i: int) -> NDArray[np.float32]:
    """[H, W, 8]: colour, mean colour of 17 x 17 pixels, and place from 0 to 1."""
    picture = pairs.decoded(3)[i].astype(np.float32)
    height, width = picture.shape[:2]
    around = np.pad(picture, ((8, 9), (8, 9), (0, 0)), mode="edge").cumsum(0).cumsum(1)
    mean = (around[17:, 17:] - around[:-17, 17:] - around[17:, :-17] + around[:-17, :-17]) / 289
    place = np.stack(np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j], axis=-1)
    return np.concatenate([picture, mean, place], axis=-1).astype(np.float32)


if __name__ == "__main__":
    run_alone(measure)
