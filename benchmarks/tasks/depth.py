"""Depth of a room (RGB-D frames of a kitchen, the last quarter for the test): linear and DPT heads, mean depth.

python -m benchmarks.tasks.depth
"""

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tasks.models import run_alone
from dinokit.data.depths import Depths
from dinokit.data.pairs import DEPTHS, open_pairs
from dinokit.data.track import silent
from dinokit.heads.depth_plan import Kind
from dinokit.heads.depth_scores import DepthScore, score_depth
from dinokit.heads.fit import FitSettings
from dinokit.inference.backbone import Backbone
from dinokit.tasks.depth import DepthEstimator

SEEDS = (0, 1, 2)
SIZE, SETTINGS = 336, {"steps": 300, "batch": 4}
"""Chosen for linear heads on frames of the training part apart in time, see docs/depth.md."""
HEADS: tuple[Kind, ...] = ("linear", "dpt")
RANGE = (0.5, 5.0)


def measure(models: Mapping[str, Backbone], data: Path) -> list[dict[str, Any]]:
    """RMSE (m), AbsRel and delta 1 on the test frames, mean over three seeds; ±: the deviation of the RMSE.

    fit_s: seconds of the slowest training, features included where they are new.
    """
    folder = data / "rgbd_room"
    rows = [
        _row(f"{name}, {kind}", [_fit(backbone, kind, folder, seed) for seed in SEEDS])
        for kind in HEADS
        for name, backbone in models.items()
    ]
    return [*rows, _row("mean depth per position", [_mean_per_position(folder)])]


def _row(name: str, found: Sequence[tuple[DepthScore, float]]) -> dict[str, Any]:
    scores, seconds = zip(*found, strict=True)
    rmse = [score.rmse for score in scores]
    return {
        "job": "depth",
        "on": "rgbd_room test",
        "what": name,
        "rmse": round(statistics.mean(rmse), 4),
        "±": round(statistics.stdev(rmse), 4) if len(rmse) > 1 else 0.0,
        "abs_rel": round(statistics.mean(score.abs_rel for score in scores), 4),
        "delta1": round(statistics.mean(score.delta1 for score in scores), 4),
        "fit_s": round(max(seconds)),
    }


def _fit(backbone: Backbone, kind: Kind, folder: Path, seed: int) -> tuple[DepthScore, float]:
    estimator, started = DepthEstimator(backbone, SIZE, head=kind, range=RANGE), time.perf_counter()
    estimator.fit(folder / "train", settings=FitSettings(seed=seed, **SETTINGS))
    seconds = time.perf_counter() - started
    return estimator.evaluate(folder / "test"), seconds


def _mean_per_position(folder: Path) -> tuple[DepthScore, float]:
    """Every frame gets, at each pixel, the mean of the known training depths there."""
    started = time.perf_counter()
    train, test = (Depths(open_pairs(folder / part, DEPTHS), RANGE, silent) for part in ("train", "test"))
    maps = np.stack(list(train))
    counts = (maps > 0).sum(axis=0)
    mean = np.where(counts > 0, maps.sum(axis=0) / np.maximum(counts, 1), maps[maps > 0].mean())
    return DepthScore.mean([score_depth(mean, true, RANGE) for true in test]), time.perf_counter() - started


if __name__ == "__main__":
    run_alone(measure)
