"""Three jobs in one pass (classify, segment, depth, linear heads) beside each of them alone, at one size.

    python -m benchmarks.tasks.together

From the picture in memory to the results; the ways take turns, and the time of each is its median.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.tasks.models import run_alone
from dinokit.heads.fit import FitSettings
from dinokit.images.read import read
from dinokit.inference.backbone import Backbone
from dinokit.inference.layers import Look
from dinokit.tasks.classify import Classifier
from dinokit.tasks.depth import DepthEstimator
from dinokit.tasks.segment import Segmenter
from dinokit.tasks.task import MultiTask, PictureTask

ANY_MODEL = True
SIZE = 336
"""Short side at which the kitchen's frames of 448 x 336 px are looked at."""
QUICK = FitSettings(steps=20, batch=4)
"""How good the heads are does not matter here."""
ROUNDS, PICTURES = 15, 4


def measure(models: Mapping[str, Backbone], data: Path) -> list[dict[str, Any]]:
    """Milliseconds a picture of each job alone and of all of them, and that beside the slowest."""
    name, backbone = next(iter(models.items()))
    jobs = _jobs(backbone, data)
    pictures = [read(path) for path in sorted((data / "rgbd_room/test/rgb").glob("*.jpg"))[:PICTURES]]
    ways: dict[str, Callable[[Any], Any]] = {job: task.predict for job, task in jobs.items()}
    ways["all three in one pass"] = MultiTask(backbone, jobs).predict
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, predict in ways.items():
            started = time.perf_counter()
            for picture in pictures:
                predict(picture)
            seconds[way].append((time.perf_counter() - started) / len(pictures))
    medians = {way: 1000 * statistics.median(times[1:]) for way, times in seconds.items()}
    slowest = max(medians[job] for job in jobs)
    return [
        {
            "job": "together",
            "on": "rgbd_room test",
            "what": f"{way}, {name}",
            "ms": round(value, 1),
            "x slowest": round(value / slowest, 3),
        }
        for way, value in medians.items()
    ]


def _jobs(backbone: Backbone, data: Path) -> dict[str, PictureTask[Any]]:
    classifier = Classifier(backbone)
    classifier.fit(data / "rsscn7/train.tar.gz")
    classifier.look = Look(classifier.look.layers, SIZE)  # as the others look at pictures
    segmenter = Segmenter(backbone, SIZE)
    segmenter.fit(data / "camvid/train", settings=QUICK)
    depth = DepthEstimator(backbone, SIZE)
    depth.fit(data / "rgbd_room/train", settings=QUICK)
    return {"classify": classifier, "segment": segmenter, "depth": depth}


if __name__ == "__main__":
    run_alone(measure)
