"""The map between two views of one plane, 3 x 3: robustly from matches, applied, and how far it is from the truth.

Hartley and Zisserman, "Multiple View Geometry", chapter 4.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinokit.errors import UserError

Floats = NDArray[np.float64]

FEWEST = 4
"""Matches that fix a homography."""


def transform(matrix: NDArray[Any], points: NDArray[Any]) -> Floats:
    """Points [N, 2] (x, y) of the first picture in the second one; NaN for those on the horizon."""
    lifted = np.concatenate([np.asarray(points, dtype=np.float64), np.ones((len(points), 1))], axis=1) @ matrix.T
    depth = np.where(np.abs(lifted[:, 2:]) < 1e-12, np.nan, lifted[:, 2:])
    return np.asarray(lifted[:, :2] / depth)


def corner_error(found: NDArray[Any], true: NDArray[Any], size: tuple[int, int]) -> float:
    """Mean distance in pixels of the second picture between the four corners of the first, taken there by both maps.

    size: height and width of the first picture.
    """
    height, width = size
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=np.float64)
    error = np.linalg.norm(transform(found, corners) - transform(true, corners), axis=1).mean()
    return float(error) if np.isfinite(error) else float("inf")


def estimate(starts: Floats, ends: Floats, tolerance: float) -> tuple[Floats, NDArray[np.bool_]]:
    """The homography that most matches [N, 2] -> [N, 2] agree with to `tolerance` pixels, and which do [N].

    Raises `UserError` for fewer than four matches and where no homography explains them, such as on one line.
    """
    if len(starts) < FEWEST:
        raise UserError(f"{len(starts)} matches are too few for a homography", f"it takes {FEWEST} and more")
    matrix, inliers = poselib_estimate(starts, ends, tolerance)
    if inliers.sum() < FEWEST or _on_a_line(starts[inliers]) or _on_a_line(ends[inliers]):
        hint = "give two views of one flat scene, or from one place"
        raise UserError(f"no homography explains the {len(starts)} matches", hint)
    return matrix / matrix[2, 2], inliers


def poselib_estimate(starts, ends, tolerance):
    import poselib
    m, info = poselib.estimate_homography(starts, ends, {"max_reproj_error": tolerance, "max_iterations": 10000, "success_prob": .9999,"min_iterations":1000})
    return np.asarray(m), np.asarray(info["inliers"], bool)


def usac_estimate(starts, ends, tolerance):
    import cv2
    cv2.setRNGSeed(0)
    m, k = cv2.findHomography(starts, ends, cv2.USAC_MAGSAC, tolerance, maxIters=10000, confidence=.9999)
    return (np.eye(3), np.zeros(len(starts), bool)) if m is None else (m, k.ravel().astype(bool))


def _on_a_line(points: Floats) -> bool:
    """Whether points [N, 2] lie within a pixel of one line."""
    return bool(np.linalg.svd(points - points.mean(0), compute_uv=False)[1] < max(len(points), 1) ** 0.5)
