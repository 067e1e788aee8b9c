"""Masks through real videos, by the official score, beside the first mask copied, optical flow and random weights.

    python -m benchmarks.tasks.track [--sequences camel goat]

Data: `davis` (eight sequences of 30 frames of 640 x 360 with one object; `caps` with two objects and three masks).
Size, temperature and radius were chosen by scores on objects of coco_mini/train pasted into other pictures and moved;
the radius was decided after the first scores on `davis`, which had 12.
J&F leaves out the first frame and the last one; of `caps`, all masks but the first count. `seconds` is the
time per frame of one sequence, reading included; `x forward` divides it by the backbone's forward alone, on the same
frames in the same run.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.data import data_folder
from benchmarks.results import show
from benchmarks.tasks.models import both_models
from dinokit.data.object_masks import Labels, read_objects
from dinokit.data.video import Video, open_video
from dinokit.heads.propagate import PropagateSettings
from dinokit.heads.video_scores import TrackScore, score_video
from dinokit.images.geometry import to_grid
from dinokit.images.normalize import normalize
from dinokit.images.read import Picture, read
from dinokit.inference.backbone import Backbone
from dinokit.tasks.track import Following, Tracker, frames_that_count, match_masks

TIMED_FRAMES = 12


def sequences(data: Path) -> dict[str, tuple[Path, Path]]:
    """Frames and masks of every sequence of `davis`."""
    root = data / "davis"
    found = {}
    for home in (root, root / "two_objects"):
        for frames in sorted((home / "JPEGImages").iterdir()):
            found[frames.name] = frames, home / "Annotations" / frames.name
    return found


def copy_first(first: Labels, pictures: Iterator[Picture]) -> Iterator[Labels]:
    """The first mask for every frame."""
    for _ in pictures:
        yield first


def follow_flow(first: Labels, pictures: Iterator[Picture]) -> Iterator[Labels]:
    """The mask of the frame before, taken along by dense optical flow from each frame back to it (DIS, medium)."""
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    labels, before = first, None
    x, y = np.meshgrid(np.arange(first.shape[1]), np.arange(first.shape[0]))
    for picture in pictures:
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        if before is not None:
            back = flow.calc(grey, before, None)
            places = (x + back[..., 0]).astype(np.float32), (y + back[..., 1]).astype(np.float32)
            labels = cv2.remap(labels, *places, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
        before = grey
        yield labels


def score_plain(
    method: Callable[[Labels, Iterator[Picture]], Iterator[Labels]], video: Video, masks: Path
) -> TrackScore:
    """The score of a method that needs no backbone."""
    true = match_masks(video, sorted(masks.iterdir()), str(masks))
    first, counted = read_objects(true[0]), frames_that_count(true, video.count)
    found = enumerate(method(first, iter(video)))
    objects = [int(number) for number in np.unique(first) if number]
    return score_video(((labels, read_objects(true[n])) for n, labels in found if n in counted), objects)


def time_frames(tracker: Tracker, frames: Path, mask: Path) -> tuple[float, float]:
    """Seconds per frame of the tracker and of the forward alone, frame by frame in turns: the medians."""
    backbone, paths = tracker.backbone, sorted(frames.iterdir())[:TIMED_FRAMES]
    following = Following(tracker, read_objects(mask))
    ours, forward = [], []
    for path in paths:
        started = time.perf_counter()
        following.next(read(path))
        between = time.perf_counter()
        size = tracker.look.size
        batch = normalize(
            to_grid(read(path), size, backbone.patch_size)[None], backbone.info.statistics, backbone.dtype
        )
        before = time.perf_counter()
        backbone(batch)
        ours.append(between - started)
        forward.append(time.perf_counter() - before)
    return statistics.median(ours[3:]), statistics.median(forward[3:])


def measure(models: Mapping[str, Backbone], data: Path, only: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """One row for each model (with the published settings too) and for each baseline."""
    chosen = {name: pair for name, pair in sequences(data).items() if not only or name in only}
    trackers = {name: Tracker(backbone) for name, backbone in models.items()}
    name, backbone = next(iter(models.items()))
    trackers[f"{name}, published settings"] = Tracker(backbone, settings=PropagateSettings(), smooth=False)
    rows = []
    for name, tracker in trackers.items():
        scores = {key: tracker.evaluate(frames, masks) for key, (frames, masks) in chosen.items()}
        frames, masks = next(iter(chosen.values()))
        seconds, forward = time_frames(tracker, frames, masks / "00000.png")
        rows.append(_row(name, scores) | {"seconds": round(seconds, 3), "x forward": round(seconds / forward, 2)})
        print(rows[-1], flush=True)
    for name, method in (("first mask copied", copy_first), ("optical flow (DIS)", follow_flow)):
        scores = {key: score_plain(method, open_video(frames), masks) for key, (frames, masks) in chosen.items()}
        rows.append(_row(name, scores) | {"seconds": "", "x forward": ""})
        print(rows[-1], flush=True)
    return rows


def _row(what: str, scores: Mapping[str, TrackScore]) -> dict[str, Any]:
    whole = TrackScore.join(scores)
    figures = {"J&F": whole.mean, "J": whole.region, "F": whole.boundary}
    each = {name: round(100 * score.mean, 1) for name, score in scores.items()}
    return {"job": "track", "on": "davis", "what": what, **{k: round(100 * v, 1) for k, v in figures.items()}, **each}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", nargs="+", default=[])
    options = parser.parse_args()
    rows = measure(both_models(), data_folder(), tuple(options.sequences))
    show(f"J&F on davis, {torch.get_num_threads()} threads", list(rows[0]), [list(row.values()) for row in rows])


if __name__ == "__main__":
    main()
