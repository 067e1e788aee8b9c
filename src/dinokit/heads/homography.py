"""The map between two views of one plane, 3 x 3: robustly from matches, applied, and how far it is from the truth.

Hartley and Zisserman, "Multiple View Geometry", chapter 4.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinokit.errors import UserError

Floats = NDArray[np.float64]

_EFFORT = {"min_iterations": 1000, "max_iterations": 10000, "success_prob": 0.9999}
FEWEST = 4
"""Matches that fix a homography."""


def transform(matrix: NDArray[Any], points: NDArray[Any]) -> Floats:
    """Points [N, 2] (x, y) of the first picture in the second one; NaN for those on the horizon."""
    lifted = np.concatenate([np.asarray(points, dtype=np.float64), np.ones((len(points), 1))], axis=1) @ matrix.T
    depth = np.where(np.abs(lifted[:, 2:]) < 1e-12, np.nan, lifted[:, 2:])
    return np.asarray(lifted[:, :2] / depth)


def zoom(matrix: NDArray[Any], size: tuple[int, int]) -> float:
    """Pixels of the second picture for one in the middle of the first, of height and width `size`."""
    around = np.array([[-1, 0], [1, 0], [0, -1], [0, 1]]) / 2 + [size[1] / 2, size[0] / 2]
    steps = transform(matrix, around)
    return float(np.sqrt(abs(np.linalg.det([steps[1] - steps[0], steps[3] - steps[2]]))))


def places(matrix: NDArray[Any], size: tuple[int, int]) -> Floats:
    """Where the pixels of a view of height and width `size` lie in the picture that `matrix` maps to: [h, w, 2]."""
    grid = np.stack(np.meshgrid(np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5), axis=-1)
    return transform(matrix, grid.reshape(-1, 2)).reshape(*size, 2)


def turned(size: tuple[int, int], degrees: float) -> tuple[Floats, tuple[int, int]]:
    """The map [3, 3] to a picture of `size` from a view that shows it turned, and height and width of the view."""
    height, width = size
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    wide, high = (round(abs(cosine) * a + abs(sine) * b) for a, b in ((width, height), (height, width)))
    matrix = np.eye(3)
    matrix[:2, :2] = [[cosine, -sine], [sine, cosine]]
    matrix[:2, 2] = np.array([width, height]) / 2 - matrix[:2, :2] @ [wide / 2, high / 2]
    return matrix, (high, wide)


def corner_error(found: NDArray[Any], true: NDArray[Any], size: tuple[int, int]) -> float:
    """Mean distance in pixels of the second picture between the four corners of the first, taken there by both maps.

    size: height and width of the first picture.
    """
    height, width = size
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=np.float64)
    error = np.linalg.norm(transform(found, corners) - transform(true, corners), axis=1).mean()
    return float(error) if np.isfinite(error) else float("inf")


def estimate(starts: Floats, ends: Floats, tolerance: float) -> tuple[Floats, NDArray[np.bool_]]:
    """The homography that most matches [N, 2] -> [N, 2] agree with to `tolerance` pixels, and which do: bool [N].

    LO-RANSAC of PoseLib. Raises `UserError` for fewer than four matches, and where no homography explains them: too few
    agree, or those that do lie on one line.
    """
    poselib = load_poselib()
    if len(starts) < FEWEST:
        raise UserError(f"{len(starts)} matches are too few for a homography", f"it takes {FEWEST} at least")
    settings = {"max_reproj_error": tolerance, **_EFFORT}
    matrix, report = poselib.estimate_homography(starts, ends, settings)
    inliers = np.asarray(report["inliers"], dtype=bool)
    if inliers.sum() < FEWEST or _on_a_line(starts[inliers]) or _on_a_line(ends[inliers]) or abs(matrix[2, 2]) < 1e-12:
        raise no_homography(len(starts))
    return np.asarray(matrix / matrix[2, 2]), inliers


def no_homography(matches: int) -> UserError:
    """What is said where too few of so many matches agree."""
    hint = "give two views of one flat thing, or from one place"
    return UserError(f"no homography explains the {matches} matches", hint)


def _on_a_line(points: Floats) -> bool:
    """Whether points [N, 2] lie within a pixel of one line."""
    spread = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)[1]
    return bool(spread / np.sqrt(len(points)) < 1)


def load_poselib() -> Any:
    """PoseLib; `UserError` where it is not installed."""
    try:
        import poselib
    except ImportError:
        raise UserError("homographies need PoseLib", "pip install dinokit[geometry]") from None
    return poselib
