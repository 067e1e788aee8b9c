"""Matching two pictures: homographies on `graf`, disparities on `stereo_aloe`, beside random weights and SIFT.

    python -m benchmarks.tasks.match

Of each network twice: with places read off the pixels, and from the features alone. SIFT: OpenCV's keypoints, mutual,
ratio test 0.8, the same robust homography. Corner errors are in pixels of the second picture. No setting was chosen on
these pairs, see docs/match.md.
"""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.tasks.models import run_alone
from dinokit.errors import UserError
from dinokit.heads.homography import corner_error, estimate
from dinokit.images.read import Picture, read
from dinokit.inference.backbone import Backbone
from dinokit.tasks.match import Matcher

GRAF = tuple(("graf", number) for number in (2, 3, 4, 6))
PAIRS = (*GRAF, ("boat", 2), ("adam", 2), ("BruggeSquare", 2), ("Boston", 2))
LIMITS = (3, 5, 10)
SIFT_RATIO, SIFT_TOLERANCE = 0.8, 3.0
SHIFT = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])
"""From pixels that count from their centres to ours."""

Floats = NDArray[np.float64]
FindMatrix = Callable[[Picture, Picture], tuple[Floats, int]]
FindPoints = Callable[[Picture, Picture], tuple[Floats, Floats]]


def measure(models: Mapping[str, Backbone], data: Path) -> list[dict[str, Any]]:
    """Rows for each model, with and without a search on pixels, and for SIFT."""
    ways: dict[str, tuple[FindMatrix, FindPoints]] = {}
    for name, backbone in models.items():
        ways[name] = _ways(Matcher(backbone))
        ways[f"{name}, features alone"] = _ways(Matcher(backbone, refine=False))
    ways["SIFT + ratio test"] = sift_homography, sift_matches
    return [
        *(homographies(what, data, find) for what, (find, _) in ways.items()),
        *(disparities(what, data, find) for what, (_, find) in ways.items()),
    ]


def homographies(what: str, data: Path, find: FindMatrix) -> dict[str, Any]:
    """The row of one way to find homographies on `graf`."""
    errors, inliers, started = {}, {}, time.perf_counter()
    for folder, number in PAIRS:
        place = data / "graf" / folder
        first, second = (read(place / f"img{n}.jpg") for n in (1, number))
        truth = SHIFT @ np.loadtxt(place / f"H1to{number}p") @ np.linalg.inv(SHIFT)
        pair = f"{folder} 1-{number}"
        try:
            matrix, inliers[pair] = find(first, second)
            errors[pair] = corner_error(matrix, truth, (first.shape[0], first.shape[1]))
        except UserError:
            errors[pair], inliers[pair] = float("inf"), 0
    row: dict[str, Any] = {"job": "match", "on": "graf", "what": what}
    row |= {pair: round(error, 2) if math.isfinite(error) else None for pair, error in errors.items()}
    row |= {f"< {limit} px": float(np.mean([e < limit for e in errors.values()])) for limit in LIMITS}
    row["inliers"] = float(np.median(list(inliers.values())))
    row["s a pair"] = round((time.perf_counter() - started) / len(PAIRS), 2)
    return row


def disparities(what: str, data: Path, find: FindPoints) -> dict[str, Any]:
    """The row of one way to find matches on `stereo_aloe`: distance to where the disparity says."""
    place = data / "stereo_aloe"
    left, right = read(place / "left.jpg"), read(place / "right.jpg")
    with Image.open(place / "disparity.png") as image:
        disparity = np.asarray(image).astype(np.float64)
    starts, ends = find(left, right)
    cols, rows = np.clip(starts, 0, [left.shape[1] - 1, left.shape[0] - 1]).astype(int).T
    known = disparity[rows, cols] > 0
    true = starts - np.stack([disparity[rows, cols], np.zeros(len(starts))], axis=1)
    errors = np.linalg.norm(ends - true, axis=1)[known]
    row = {"job": "match", "on": "stereo_aloe", "what": what, "matches": int(known.sum())}
    return row | {"median px": round(float(np.median(errors)), 2), "< 2 px": round(float((errors < 2).mean()), 3)}


def sift_matches(first: Picture, second: Picture) -> tuple[Floats, Floats]:
    """SIFT keypoints that are each other's nearest and clearer than the next, in pixels with centres at .5."""
    sift = cv2.SIFT_create()
    found = [
        sift.detectAndCompute(np.ascontiguousarray(p.mean(axis=2).round().astype(np.uint8)), None)
        for p in (first, second)
    ]
    (points, descriptors), (others, other_descriptors) = found
    matcher = cv2.BFMatcher()
    back = {m.queryIdx: m.trainIdx for m in matcher.match(other_descriptors, descriptors)}
    pairs = matcher.knnMatch(descriptors, other_descriptors, k=2)
    good = [m for m, n in pairs if m.distance < SIFT_RATIO * n.distance and back[m.trainIdx] == m.queryIdx]
    starts = np.array([points[m.queryIdx].pt for m in good]).reshape(-1, 2) + 0.5
    ends = np.array([others[m.trainIdx].pt for m in good]).reshape(-1, 2) + 0.5
    return starts, ends


def sift_homography(first: Picture, second: Picture) -> tuple[Floats, int]:
    """The homography of SIFT's matches, and how many agree."""
    matrix, inliers = estimate(*sift_matches(first, second), SIFT_TOLERANCE)
    return matrix, int(inliers.sum())


def _ways(matcher: Matcher) -> tuple[FindMatrix, FindPoints]:
    def find_matrix(first: Picture, second: Picture) -> tuple[Floats, int]:
        found = matcher.homography(first, second)
        return found.matrix, int(found.inliers.sum())

    def find_points(first: Picture, second: Picture) -> tuple[Floats, Floats]:
        found = matcher.predict(first, second)
        return found.points1, found.points2

    return find_matrix, find_points


if __name__ == "__main__":
    run_alone(measure)
