"""What matching two pictures gives: corresponding points, places that were asked for, a homography, a score.

Points are pixels (x, y) of the pictures as they were given, centres at .5.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dinokit.checkpoints.save import write_atomically
from dinokit.images.draw import beside, blend, draw_pairs, draw_points, palette, ramp
from dinokit.images.read import Picture
from dinokit.tasks.results import check_name, save_picture, write_csv

__all__ = ["Homography", "Located", "MatchScore", "Matches"]

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Columns = dict[str, NDArray[Any]]

SHOWN = 60
"""Lines that can still be told apart in a picture."""
UNSURE = 0.25
"""Share of matches that agree, below which a homography may well be wrong."""
ENDINGS = (".png", ".jpg", ".jpeg", ".csv", ".npz")


@dataclass(frozen=True)
class Matches:
    """N places of the first picture with those of the second that show the same, most similar first."""

    points1: Floats
    """[N, 2] pixels (x, y) of the first picture."""
    points2: Floats
    """[N, 2] pixels (x, y) of the second picture."""
    score: NDArray[np.float32]
    """[N], cosine of the features, at most 1."""
    first: Picture
    second: Picture

    def __len__(self) -> int:
        return len(self.points1)

    def describe(self) -> str:
        if not len(self):
            return "no matches: the pictures have nothing in common"
        return "1 match" if len(self) == 1 else f"{len(self)} matches"

    def to_row(self) -> dict[str, Any]:
        """For JSON: how many matches."""
        return {"matches": len(self)}

    def draw(self, most: int = SHOWN) -> Picture:
        """Both pictures side by side with lines between at most `most` matches, spread over the first picture."""
        chosen = spread(self.points1, most)
        return draw_pairs(self.first, self.second, self.points1[chosen], self.points2[chosen])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write x1, y1, x2, y2, score as .csv; points1, points2, score as .npz; or the drawing as .png, .jpg."""
        columns: Columns = {"x1": self.points1[:, 0], "y1": self.points1[:, 1], "x2": self.points2[:, 0]}
        columns |= {"y2": self.points2[:, 1], "score": self.score}
        arrays: Columns = {"points1": self.points1, "points2": self.points2, "score": self.score}
        _save(Path(path), self.draw, columns, arrays)


@dataclass(frozen=True)
class Located:
    """Where points of the first picture are in the second one."""

    asked: Floats
    """[N, 2] pixels (x, y) of the first picture."""
    points: Floats
    """[N, 2] pixels (x, y) of the second picture."""
    score: NDArray[np.float32]
    """[N], cosine of the features there, at most 1."""
    maps: NDArray[np.float32]
    """[N, h, w], cosine of each point with each cell of the second picture."""
    first: Picture
    second: Picture

    def __len__(self) -> int:
        return len(self.asked)

    def describe(self) -> str:
        lines = [f"({a:g}, {b:g}) -> ({c:.1f}, {d:.1f}), score {score:.2f}" for a, b, c, d, score in self._rows()]
        return "\n".join(lines)

    def to_row(self) -> dict[str, Any]:
        """For JSON: points, a list of [x1, y1, x2, y2, score]."""
        return {"points": [[round(float(value), 3) for value in row] for row in self._rows()]}

    def _rows(self) -> NDArray[Any]:
        return np.column_stack([self.asked, self.points, self.score])

    def draw(self) -> Picture:
        """Both pictures side by side with each point in one colour; for one point, the second one under its map."""
        colours = palette(len(self))
        other = self.second
        if len(self) == 1:
            height, width = other.shape[:2]
            grid = Image.fromarray(ramp(self.maps[0])).resize((width, height), Image.Resampling.BICUBIC)
            other = blend(other, np.asarray(grid))
        pictures = draw_points(self.first, self.asked, colours), draw_points(other, self.points, colours)
        height = max(picture.shape[0] for picture in pictures)
        return beside([_filled(picture, height) for picture in pictures])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write x1, y1, x2, y2, score as .csv; asked, points, score, maps as .npz; or the drawing as .png, .jpg."""
        columns: Columns = {
            "x1": self.asked[:, 0],
            "y1": self.asked[:, 1],
            "x2": self.points[:, 0],
            "y2": self.points[:, 1],
        }
        columns |= {"score": self.score}
        arrays: Columns = {"asked": self.asked, "points": self.points, "score": self.score, "maps": self.maps}
        _save(Path(path), self.draw, columns, arrays)


@dataclass(frozen=True)
class Homography:
    """The map from the first picture to the second one of a plane, or of all there is from one place."""

    matrix: Floats
    """[3, 3]: (x, y, 1) of the first picture to those of the second, up to a factor; its last number is 1."""
    inliers: Flags
    """bool [N]: which of the matches agree."""
    matches: Matches

    @property
    def share(self) -> float:
        """How many of the matches agree, 0 to 1: below `UNSURE` the homography may well be wrong."""
        return float(self.inliers.mean())

    def describe(self) -> str:
        sure = "" if self.share >= UNSURE else ": few, so it may be wrong"
        return f"{self.inliers.sum()} of {len(self.inliers)} matches agree on a homography{sure}"

    def to_row(self) -> dict[str, Any]:
        """For JSON: matrix, inliers and matches."""
        return {"matrix": self.matrix.tolist(), "inliers": int(self.inliers.sum()), "matches": len(self.inliers)}

    def draw(self, most: int = SHOWN) -> Picture:
        """Both pictures side by side; matches that agree in colours, the others thin and grey."""
        chosen = spread(self.matches.points1, most)
        starts, ends = self.matches.points1[chosen], self.matches.points2[chosen]
        return draw_pairs(self.matches.first, self.matches.second, starts, ends, self.inliers[chosen])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the matches with inlier as .csv; matrix, inliers, points1, points2, score as .npz; drawing as
        .png or .jpg.
        """
        matches = self.matches
        columns: Columns = {"x1": matches.points1[:, 0], "y1": matches.points1[:, 1], "x2": matches.points2[:, 0]}
        columns |= {"y2": matches.points2[:, 1], "score": matches.score, "inlier": self.inliers.astype(int)}
        arrays: Columns = {"matrix": self.matrix, "inliers": self.inliers, "points1": matches.points1}
        arrays |= {"points2": matches.points2, "score": matches.score}
        _save(Path(path), self.draw, columns, arrays)


@dataclass(frozen=True)
class MatchScore:
    """How right the matches of P pairs of pictures are."""

    corner_errors: Floats
    """[P], pixels: mean over the corners of the first picture between found and true homography; inf: none found, NaN:
    the truth of this pair is points."""
    inliers: NDArray[np.int64]
    """[P], matches that agree with the found homography; 0 where the truth is points."""
    point_errors: tuple[Floats, ...]
    """For each pair, pixels [N] from where matches or asked points were found to where they should be."""

    def corners_within(self, pixels: float) -> float:
        """Share of the pairs with a true homography whose corner error is at most `pixels`, 0 to 1."""
        known = self.corner_errors[~np.isnan(self.corner_errors)]
        return float((known <= pixels).mean()) if len(known) else float("nan")

    def points_within(self, pixels: float) -> float:
        """Share of all points that are at most `pixels` wrong, 0 to 1: the percentage of correct keypoints (PCK)."""
        errors = np.concatenate(self.point_errors)
        return float((errors <= pixels).mean()) if len(errors) else float("nan")


def spread(points: Floats, most: int) -> NDArray[np.int64]:
    """Numbers of at most `most` of `points` [N, 2], the first and then always the one farthest from those taken."""
    if len(points) <= most:
        return np.arange(len(points))
    taken = [0]
    distance = np.linalg.norm(points - points[0], axis=1)
    while len(taken) < most:
        taken.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(points - points[taken[-1]], axis=1))
    return np.array(taken)


def _save(path: Path, draw: Callable[[], Picture], columns: Columns, arrays: Columns) -> None:
    check_name(path, ENDINGS)
    kind = path.suffix.lower()
    if kind == ".csv":
        values = ([f"{value:.7g}" for value in column] for column in columns.values())
        return write_csv(path, columns, zip(*values, strict=True))
    if kind != ".npz":
        return save_picture(path, draw())
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    write_atomically(path, content.getvalue())


def _filled(picture: Picture, height: int) -> Picture:
    """The picture with white below, to this height."""
    below = np.full((height - picture.shape[0], *picture.shape[1:]), 255, dtype=np.uint8)
    return np.concatenate([picture, below])
