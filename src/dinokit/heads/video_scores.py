"""How well objects were followed: region J, boundary F and their mean J&F.

By the official definition: Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object
Segmentation" (CVPR 2016), section 5, as the DAVIS 2017 evaluation computes it: one mask an object, the first frame
(which was given) and the last one left out, the mean over frames and then over objects.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

Mask = NDArray[np.bool_]

TOLERANCE = 0.008
"""How far a boundary may lie from the true one, as a share of the picture's diagonal."""


@dataclass(frozen=True)
class TrackScore:
    """How well the objects of one or several videos were followed; shares from 0 to 1."""

    regions: Mapping[str, float]
    """J of each object: the mean over the frames that count."""
    boundaries: Mapping[str, float]
    """F of each object."""
    frames: int
    """How many frames counted."""

    @property
    def region(self) -> float:
        """J, the mean over objects."""
        return float(np.mean(list(self.regions.values())))

    @property
    def boundary(self) -> float:
        """F, the mean over objects."""
        return float(np.mean(list(self.boundaries.values())))

    @property
    def mean(self) -> float:
        """J&F, the mean of both."""
        return (self.region + self.boundary) / 2

    def describe(self) -> str:
        figures = f"J&F {100 * self.mean:.1f}, J {100 * self.region:.1f}, F {100 * self.boundary:.1f}"
        return f"{figures} ({len(self.regions)} objects, {self.frames} frames)"

    @staticmethod
    def join(scores: Mapping[str, TrackScore]) -> TrackScore:
        """The score of several videos, by their names: each object counts the same, as in the official evaluation."""
        regions = {f"{name}/{key}": value for name, score in scores.items() for key, value in score.regions.items()}
        boundaries = {f"{name}/{key}": v for name, score in scores.items() for key, v in score.boundaries.items()}
        return TrackScore(regions, boundaries, sum(score.frames for score in scores.values()))


def score_video(pairs: Iterable[tuple[NDArray[np.uint8], NDArray[np.uint8]]], objects: Iterable[int]) -> TrackScore:
    """Compare label maps [H, W] of `objects`, (predicted, true) for each frame that counts; 255 in the truth: void."""
    numbers = list(objects)
    regions: dict[int, list[float]] = {number: [] for number in numbers}
    boundaries: dict[int, list[float]] = {number: [] for number in numbers}
    for predicted, true in pairs:
        void = true == 255
        for number in numbers:
            ours, theirs = predicted == number, true == number
            regions[number].append(region_score(ours, theirs, void))
            boundaries[number].append(boundary_score(ours, theirs, void))
    means = [{str(n): float(np.mean(values)) for n, values in part.items()} for part in (regions, boundaries)]
    return TrackScore(means[0], means[1], len(regions[numbers[0]]))


def region_score(predicted: Mask, true: Mask, void: Mask | None = None) -> float:
    """J: intersection over union of two masks [H, W]; 1 if both are empty. Pixels that are void do not count."""
    if void is not None:
        predicted, true = predicted & ~void, true & ~void
    union = np.count_nonzero(predicted | true)
    return np.count_nonzero(predicted & true) / union if union else 1.0


def boundary_score(predicted: Mask, true: Mask, void: Mask | None = None) -> float:
    """F: harmonic mean of the shares of either boundary that lie within the tolerance of the other, [H, W] each."""
    if void is not None:
        predicted, true = predicted & ~void, true & ~void
    ours, theirs = boundary(predicted), boundary(true)
    if not (ours.any() and theirs.any()):
        return float(ours.any() == theirs.any())
    reach = math.ceil(TOLERANCE * math.hypot(*true.shape))
    precision = np.mean(distance_transform_edt(~theirs)[ours] <= reach)
    recall = np.mean(distance_transform_edt(~ours)[theirs] <= reach)
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def boundary(mask: Mask) -> Mask:
    """Pixels of [H, W] that differ from the one to the right, below, or right below."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    right, below, both = padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    return np.asarray((mask != right) | (mask != below) | (mask != both))
