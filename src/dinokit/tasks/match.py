"""Match: which pixel of one picture shows what a pixel of another one shows, and how a plane moved between them.

Patch features say which place is meant; they are coarse (a cell is 16 pixels of what the network sees). So a homography
is found in looks: after each, the second picture is warped onto the first and looked at again, which leaves the network
nothing but small differences. Where exactly a place lies is then read off the pixels (`images/local_search.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dinokit.backbones.features import Grid
from dinokit.errors import UserError
from dinokit.heads.correspondence import describe, find_nearest, sample, soft_argmax
from dinokit.heads.homography import corner_error, estimate, transform
from dinokit.images.geometry import Size
from dinokit.images.local_search import local_shapes, search_locally, shrink
from dinokit.images.read import Picture, Source, name_of, read
from dinokit.images.warp import warp
from dinokit.inference.backbone import Backbone
from dinokit.inference.layers import Look, read_pictures
from dinokit.tasks.match_results import Flags, Floats, Homography, Located, Matches, MatchScore

__all__ = ["Matcher"]

SIZE = 768
RATIO = 0.97
SURE = 0.5
"""Share of the matches of a second look that agree with a homography which is right: seldom less, and of a wrong one
seldom more than a fifth."""
ALIKE = 0.6
"""Correlation from which squares of pixels show the same."""
FINEST = 2048
"""Short side in pixels of the largest pictures in which places are searched pixel by pixel."""
STARTS = ((1.0, 1.0, 0), (0.5, 1.0, 0), (1.0, 0.5, 0), (1.0, 1.0, 45), (1.0, 1.0, -45), (1.0, 1.0, 90), (1.0, 1.0, -90))
STARTS = (*STARTS, (1.0, 1.0, 180))
"""How pictures are first looked at until a homography is sure: size of the first and the second, turn of the second."""

Pair = tuple[Source, Source, NDArray[np.float64]]
"""Two pictures and the truth: a homography [3, 3], or points [M, 4] as x1, y1, x2, y2."""


@dataclass(frozen=True)
class _Seen:
    """A picture with unit-length features [h, w, D]."""

    picture: Picture
    grid: Grid
    features: Tensor

    @property
    def cell(self) -> float:
        """The longer side of a cell in pixels."""
        height, width = self.grid.spans[0]
        return max(height / self.grid.rows, width / self.grid.cols)


@dataclass(frozen=True)
class _Fit:
    """A homography found so far, and what it was found from."""

    matrix: Floats
    inliers: Flags
    matches: Matches


class Matcher:
    """Finds corresponding places of two pictures.

    size: at which pictures are looked at (short side, or (height, width)); larger is finer and slower. layers: blocks
    whose features are compared, put together if several. ratio: matches are kept whose distance (1 - cosine) is at
    most this share of the runner-up's; 1 keeps all. refine: whether places are then searched on the pixels around.
    """

    def __init__(
        self,
        backbone: Backbone,
        size: Size = SIZE,
        layers: Sequence[int] = (-1,),
        ratio: float = RATIO,
        refine: bool = True,
    ) -> None:
        if not 0 < ratio <= 1:
            raise UserError(f"ratio is {ratio!r}", "give a number above 0, at most 1, such as 0.97")
        self.backbone = backbone
        self.look = Look(tuple(layers), size).of(backbone)
        self.ratio, self.refine = ratio, refine

    def predict(self, first: Source, second: Source) -> Matches:
        """Places that are each other's nearest, most similar first; none where the pictures have nothing in common.

        Raises `UserError` for a picture that cannot be read or has one colour.
        """
        one, other = (self._see(picture) for picture in self._read(first, second))
        matches = self._match(one, other, self.ratio)
        if self.refine and len(matches):
            matches = replace(matches, points2=self._refined(matches, one.cell))
        return matches

    def locate(self, points: Floats | Sequence[Sequence[float]], first: Source, second: Source) -> Located:
        """Where `points` [N, 2], pixels (x, y) of the first picture, are in the second.

        Raises `UserError` as `predict`, and for a point outside the first picture.
        """
        pictures = self._read(first, second)
        asked = _check_points(points, pictures[0], name_of(first))
        one, other = (self._see(picture) for picture in pictures)
        wanted = sample(one.features, one.grid.to_cells(asked).to(self.backbone.device))
        maps = torch.einsum("nd,hwd->nhw", wanted, other.features)
        _, cells = soft_argmax(maps)
        found = other.grid.to_pixels(cells.cpu()).numpy()
        located = Located(asked, found, _array(maps.flatten(1).amax(1)), _array(maps), *pictures)
        if not self.refine:
            return located
        near = Matches(asked, found, located.score, *pictures)
        return replace(located, points=self._refined(near, one.cell))

    def homography(self, first: Source, second: Source) -> Homography:
        """The homography between two views of one plane, or from one place, with the matches it was found from.

        Raises `UserError` as `predict`, and where there are too few matches or none that agree.
        """
        pictures = self._read(first, second)
        best: _Fit | None = None
        problem: UserError | None = None
        for start in STARTS:
            try:
                fit = self._look_again(self._start(*pictures, *start))
            except UserError as error:
                problem = problem or error
                continue
            best = fit if best is None or fit.inliers.sum() > best.inliers.sum() else best
            if fit.inliers.mean() >= SURE:
                break
        if best is None:
            assert problem is not None
            raise problem
        if self.refine:
            best = self._refined_fit(best)
        return Homography(best.matrix, best.inliers, best.matches)

    def evaluate(self, pairs: Iterable[Pair]) -> MatchScore:
        """How right this is on pairs of pictures with the truth, see `Pair`.

        For a homography the corners and all matches are compared, for points where they are found.
        """
        corners, inliers, errors = [], [], []
        for first, second, truth in pairs:
            if truth.shape == (3, 3):
                corner, count = self._corner_error(first, second, truth)
                matches = self.predict(first, second)
                away = matches.points2 - transform(truth, matches.points1)
            elif truth.ndim == 2 and truth.shape[1] == 4:
                corner, count = float("nan"), 0
                away = self.locate(truth[:, :2], first, second).points - truth[:, 2:]
            else:
                raise UserError(f"the truth of a pair has shape {truth.shape}", "give [3, 3], or [M, 4] points")
            corners.append(corner)
            inliers.append(count)
            errors.append(np.linalg.norm(away, axis=1))
        return MatchScore(np.array(corners), np.array(inliers), tuple(errors))

    def _corner_error(self, first: Source, second: Source, truth: Floats) -> tuple[float, int]:
        try:
            found = self.homography(first, second)
        except UserError:
            return float("inf"), 0
        size = (found.matches.first.shape[0], found.matches.first.shape[1])
        return corner_error(found.matrix, truth, size), int(found.inliers.sum())

    def _read(self, first: Source, second: Source) -> tuple[Picture, Picture]:
        pictures = []
        for source, which in ((first, "the first picture"), (second, "the second picture")):
            name = name_of(source) if isinstance(source, str) or hasattr(source, "__fspath__") else which
            picture = read(source, name, channels=self.backbone.spec.in_channels)
            if (picture == picture[0, 0]).all():
                raise UserError(f"{name} has one colour all over", "give a picture in which something can be found")
            pictures.append(picture)
        return pictures[0], pictures[1]

    def _see(self, picture: Picture, zoom: float = 1.0) -> _Seen:
        size = self.look.size
        if zoom != 1 and isinstance(size, int):
            size = max(round(size * zoom), 1)
        seen = next(read_pictures(self.backbone, [picture], replace(self.look, size=size)))
        return _Seen(picture, seen.grid, describe([features.patches[0] for features in seen.layers]))

    def _match(self, one: _Seen, other: _Seen, ratio: float = 1.0) -> Matches:
        """Mutual nearest cells, most similar first."""
        nearest = find_nearest(one.features, other.features)
        clear = (1 - nearest.similarity) <= ratio * (1 - nearest.runner_up)
        kept = (nearest.mutual & clear).nonzero()[:, 0]
        kept = kept[nearest.similarity[kept].argsort(descending=True, stable=True)]
        cells = torch.stack([kept // one.grid.cols, kept % one.grid.cols], dim=1).cpu()
        starts, ends = one.grid.to_pixels(cells), other.grid.to_pixels(nearest.places[kept].cpu())
        return Matches(starts.numpy(), ends.numpy(), _array(nearest.similarity[kept]), one.picture, other.picture)

    def _start(self, first: Picture, second: Picture, zoom: float, other_zoom: float, turn: float) -> _Fit:
        """A homography from a first look."""
        one = self._see(first, zoom)
        matrix, size = _turned(second, turn)
        return self._look(one, second, matrix, size, other_zoom)

    def _look(
        self, one: _Seen, second: Picture, matrix: Floats, size: tuple[int, int], zoom: float = 1.0
    ) -> _Fit:
        """A homography from looking at the second picture through `matrix`: a view of height and width `size`."""
        view, inside = warp(second, _places(matrix, size))
        other = self._see(view, zoom)
        matches = self._match(one, other)
        kept = _at(inside, matches.points2)
        starts, ends = matches.points1[kept], matches.points2[kept]
        found, inliers = estimate(starts, ends, other.cell / 2)
        whole = Matches(starts, transform(matrix, ends), matches.score[kept], one.picture, second)
        return _Fit(_scaled(matrix @ found), inliers, whole)

    def _look_again(self, fit: _Fit) -> _Fit:
        """A better homography, from the second picture as it would look from where the first was taken."""
        first = fit.matches.first
        return self._look(self._see(first), fit.matches.second, fit.matrix, (first.shape[0], first.shape[1]))

    def _refined(self, matches: Matches, cell: float) -> Floats:
        """Where in the second picture the squares of pixels around the matches are, near where they are now."""
        starts, ends = torch.from_numpy(matches.points1), torch.from_numpy(matches.points2)
        shapes = local_shapes(starts, ends)
        for factor in _levels(matches.first, cell):
            one, other = shrink(matches.first, factor), shrink(matches.second, factor)
            here, there = _ratio(one, matches.first), _ratio(other, matches.second)
            moved, alike = search_locally(one, other, starts * here, ends * there, shapes)
            ends = torch.where((alike > ALIKE)[:, None], moved / there, ends)
        return np.asarray(ends.numpy())

    def _refined_fit(self, fit: _Fit) -> _Fit:
        """The homography from squares of pixels around the matches that agree, found again in the warped picture."""
        first, second = fit.matches.first, fit.matches.second
        starts, scores = fit.matches.points1[fit.inliers], fit.matches.score[fit.inliers]
        cell = max(first.shape[:2]) / max(1, 48)
        for factor in _levels(first, cell):
            small = shrink(first, factor)
            scale = _ratio(small, first).numpy()
            matrix = fit.matrix @ np.diag([*(1 / scale), 1.0])
            view, _ = warp(second, _places(matrix, (small.shape[0], small.shape[1])))
            here = torch.from_numpy(starts * scale)
            moved, alike = search_locally(small, view, here, here, torch.eye(2).double().expand(len(here), 2, 2))
            kept = (alike > ALIKE).numpy()
            try:
                found, inliers = estimate(starts[kept] * scale, moved.numpy()[kept], 1.0)
            except UserError:
                continue
            ends = transform(matrix, moved.numpy()[kept])
            whole = matrix @ found @ np.diag([*scale, 1.0])
            fit = _Fit(_scaled(whole), inliers, Matches(starts[kept], ends, scores[kept], first, second))
        return fit


def _array(values: Tensor) -> NDArray[np.float32]:
    return np.asarray(values.float().cpu().numpy())


def _scaled(matrix: Floats) -> Floats:
    return np.asarray(matrix / matrix[2, 2])


def _ratio(small: Picture, large: Picture) -> Tensor:
    return torch.tensor([small.shape[1] / large.shape[1], small.shape[0] / large.shape[0]], dtype=torch.float64)


def _levels(picture: Picture, cell: float) -> Iterator[float]:
    """By how much pictures are made smaller, one after another, so that half a cell is within reach of the first."""
    finest = max(min(picture.shape[:2]) / FINEST, 1.0)
    factor = max(cell / 20, finest)
    while factor > finest:
        yield factor
        factor /= 4
    yield finest


def _places(matrix: Floats, size: tuple[int, int]) -> Floats:
    """Where the pixels of a view of `size` come from: [h, w, 2] (x, y)."""
    grid = np.stack(np.meshgrid(np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5), axis=-1)
    return transform(matrix, grid.reshape(-1, 2)).reshape(*size, 2)


def _turned(picture: Picture, degrees: float) -> tuple[Floats, tuple[int, int]]:
    """The map from a view that shows the whole picture turned to the picture, and height and width of the view."""
    height, width = picture.shape[:2]
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    wide, high = (round(abs(cosine) * a + abs(sine) * b) for a, b in ((width, height), (height, width)))
    turn = np.array([[cosine, -sine], [sine, cosine]])
    matrix = np.eye(3)
    matrix[:2, :2] = turn
    matrix[:2, 2] = np.array([width, height]) / 2 - turn @ [wide / 2, high / 2]
    return matrix, (high, wide)


def _at(inside: Flags, points: Floats) -> Flags:
    """Whether points [N, 2] (x, y) are where `inside` [h, w] is true."""
    cols, rows = np.clip(points, 0, [inside.shape[1] - 1, inside.shape[0] - 1]).astype(int).T
    return np.asarray(inside[rows, cols])


def _check_points(points: Floats | Sequence[Sequence[float]], picture: Picture, name: str) -> Floats:
    asked = np.asarray(points, dtype=np.float64)
    if asked.ndim != 2 or asked.shape[1] != 2 or not len(asked):
        raise UserError(f"points have shape {asked.shape}", "give [N, 2]: x and y for each")
    height, width = picture.shape[:2]
    outside = ~((asked >= 0) & (asked <= [width, height])).all(axis=1)
    if outside.any():
        x, y = asked[outside][0]
        raise UserError(f"point ({x:g}, {y:g}) lies outside {name}", f"it is {width} x {height} pixels")
    return asked
