"""Match: which pixel of one picture shows what a pixel of another one shows, and how a plane moved between them.

Patch features say which place is meant; they are coarse (a cell is 16 pixels of what the network sees). Where exactly
the place lies is then read off the pixels around it (`images/local_search.py`), unless `refine` is off.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from dinokit.errors import UserError
from dinokit.heads.correspondence import near_only, sample, soft_argmax
from dinokit.heads.homography import corner_error, load_poselib, transform
from dinokit.images.geometry import Size
from dinokit.images.read import Picture, Source, read
from dinokit.inference.backbone import Backbone
from dinokit.inference.layers import Look
from dinokit.tasks.match_looks import (
    FIRST,
    SECOND,
    HomographySearch,
    Seen,
    expect_points,
    keep_consistent,
    match_cells,
    refine_fit,
    refine_points,
    see,
)
from dinokit.tasks.match_results import Floats, Homography, Located, Matches, MatchScore

__all__ = ["Matcher"]

SIZE, RATIO = 768, 0.9
"""Chosen on warped photographs, see docs/match.md."""

Pair = tuple[Source, Source, NDArray[np.float64]]
"""Two pictures and the truth: a homography [3, 3], or points [M, 4] as x1, y1, x2, y2."""


class Matcher:
    """Finds corresponding places of two pictures.

    size: at which pictures are looked at (short side, (height, width) or "native"); larger is finer and slower. layers:
    blocks whose features are compared, side by side if several; none: the one that makes the sharpest maps. ratio:
    matches are kept whose distance, 1 - cosine, is at most this share of that of the best cell elsewhere; 1 keeps all.
    refine: whether places are then searched pixel by pixel. Raises `UserError` for a block that there is not, and for a
    ratio that is none.
    """

    def __init__(
        self,
        backbone: Backbone,
        size: Size = SIZE,
        layers: Sequence[int] = (),
        ratio: float = RATIO,
        refine: bool = True,
    ) -> None:
        if not 0 < ratio <= 1:
            raise UserError(f"ratio is {ratio!r}", f"give a number above 0, at most 1, such as {RATIO}")
        self.backbone = backbone
        self.look = Look(tuple(layers) or (backbone.info.map_layer,), size).of(backbone)
        self.ratio, self.refine = ratio, refine

    def predict(self, first: Source, second: Source) -> Matches:
        """Places that are each other's nearest, clear, and move as those around them do; most similar first.

        Raises `UserError` for a picture that cannot be read or has one colour.
        """
        one, other = self._see(*self._read(first, second))
        matches = keep_consistent(match_cells(one, other, self.ratio), other.cell)
        if self.refine and len(matches):
            matches = replace(matches, points2=refine_points(matches, one.cell, matches))
        return matches

    def locate(self, points: Floats | Sequence[Sequence[float]], first: Source, second: Source) -> Located:
        """Where `points` [N, 2], pixels (x, y) of the first picture, are in the second.

        Where matches around a point agree on where it goes it is sought there, else in all of the second picture. Every
        point gets an answer, good or not: `score` and `maps` say how sure it is. Raises `UserError` as `predict`, and
        for a point outside the first picture.
        """
        pictures = self._read(first, second)
        asked = _check_points(points, pictures[0])
        one, other = self._see(*pictures)
        around = keep_consistent(match_cells(one, other, self.ratio), other.cell)
        wanted = sample(one.features, one.grid.to_cells(torch.from_numpy(asked)).to(one.features.device))
        maps = torch.einsum("nd,hwd->nhw", wanted, other.features)
        likely = near_only(maps, other.grid.to_cells(expect_points(asked, around, other.cell)).to(maps.device))
        scores = likely.flatten(1).amax(1).cpu().numpy()
        found = other.grid.to_pixels(soft_argmax(likely)[1].cpu()).numpy()
        if self.refine:
            found = refine_points(Matches(asked, found, scores, *pictures), one.cell, around)
        return Located(asked, found, scores, maps.cpu().numpy(), *pictures)

    def homography(self, first: Source, second: Source) -> Homography:
        """The homography between two views of one plane, or from one place, with the matches it was found from.

        Raises `UserError` as `predict`, and where too few matches agree on one.
        """
        load_poselib()  # missing, it is said before the work
        fit = HomographySearch(self.backbone, self.look, *self._read(first, second)).run()
        if self.refine:
            fit = refine_fit(fit)
        return Homography(fit.matrix, fit.inliers, fit.matches)

    def evaluate(self, pairs: Iterable[Pair]) -> MatchScore:
        """How right this is on pairs of pictures with the truth, see `Pair`.

        For a homography the corners and the matches are measured, for points where they are found.
        """
        load_poselib()
        corners, inliers, errors = [], [], []
        for first, second, truth in pairs:
            if not np.isfinite(truth).all():
                raise UserError("the truth of a pair is not finite", "check the homography, or leave out those points")
            if truth.shape == (3, 3):
                corner, count = self._corner_error(first, second, truth)
                matches = self.predict(first, second)
                away = matches.points2 - transform(truth, matches.points1)
            elif truth.ndim == 2 and truth.shape[1] == 4:
                corner, count = float("nan"), 0
                away = self.locate(truth[:, :2], first, second).points - truth[:, 2:]
            else:
                raise UserError(f"the truth of a pair has shape {list(truth.shape)}", "give [3, 3], or points [M, 4]")
            corners.append(corner)
            inliers.append(count)
            errors.append(np.linalg.norm(away, axis=1))
        return MatchScore(np.array(corners), np.array(inliers, dtype=np.int64), tuple(errors))

    def _corner_error(self, first: Source, second: Source, truth: Floats) -> tuple[float, int]:
        try:
            found = self.homography(first, second)
        except UserError:
            return float("inf"), 0
        height, width = found.matches.first.shape[:2]
        return corner_error(found.matrix, truth, (height, width)), int(found.inliers.sum())

    def _read(self, first: Source, second: Source) -> tuple[Picture, Picture]:
        return self._read_one(first, FIRST), self._read_one(second, SECOND)

    def _see(self, first: Picture, second: Picture) -> tuple[Seen, Seen]:
        return see(self.backbone, self.look, first, FIRST), see(self.backbone, self.look, second, SECOND)

    def _read_one(self, source: Source, name: str) -> Picture:
        if isinstance(source, (str, os.PathLike)):
            name = os.fspath(source)
        picture = read(source, name, channels=self.backbone.spec.in_channels)
        if (picture == picture[0, 0]).all():
            raise UserError(f"{name} has one colour all over", "give a picture in which something can be found")
        return picture


def _check_points(points: Floats | Sequence[Sequence[float]], picture: Picture) -> Floats:
    asked = np.asarray(points, dtype=np.float64)
    if asked.ndim != 2 or asked.shape[1] != 2 or not len(asked):
        raise UserError(f"points have shape {list(asked.shape)}", "give [N, 2]: x and y for each")
    height, width = picture.shape[:2]
    outside = ~((asked >= 0) & (asked <= [width, height])).all(axis=1)
    if outside.any():
        x, y = asked[outside][0]
        raise UserError(f"point ({x:g}, {y:g}) is outside the first picture", f"that has {width} x {height} pixels")
    return asked
