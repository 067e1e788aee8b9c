"""How a matcher looks at two pictures: cells that are each other's nearest, places read off the pixels, and the search
for a homography.

Features change with the point of view. So the search goes in looks: from the cells that match at once a homography is
guessed, the second picture is warped by it to look as from where the first was taken, and both are compared again.
Where the guess was right nearly all cells agree then, and where not hardly any do: that tells when to stop, and when to
start again with one picture smaller or turned, as ASIFT does (Morel and Yu 2009).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from dinokit.backbones.features import Grid
from dinokit.errors import UserError
from dinokit.heads.correspondence import describe, find_nearest
from dinokit.heads.homography import estimate, no_homography, places, transform, turned, zoom
from dinokit.heads.local_affine import agree_locally, expect, local_shapes
from dinokit.images.geometry import fit_to_grid
from dinokit.images.local_search import search_locally, shrink
from dinokit.images.read import Picture
from dinokit.images.warp import warp
from dinokit.inference.backbone import Backbone
from dinokit.inference.layers import Look, look_at
from dinokit.tasks.match_results import Flags, Floats, Matches

__all__: list[str] = []

STARTS = (
    *((1.0, 1.0, 0), (0.5, 1.0, 0), (1.0, 0.5, 0)),
    *((1.0, 1.0, 45), (1.0, 1.0, -45), (1.0, 1.0, 90), (1.0, 1.0, -90), (1.0, 1.0, 180)),
)
"""How pictures are first looked at until a homography is sure: size of the first, of the second, turn of the second."""
FIRST, SECOND = "the first picture", "the second picture"
"""What they are called."""
FEWEST = 3
"""Cells along a side with which there is something to compare."""
SURE = 0.5
"""Share of the matches of a second look that agree with a right homography; of a wrong one a fifth does."""
SUPPORT = 12
"""Matches that must agree on a homography: of pictures with nothing in common up to nine do by chance."""
ALIKE = 0.6
"""Correlation from which squares of pixels show the same."""
OVERSAMPLING = 2
"""Pixels of a warped view along each side, for one that the network looks at."""
FINEST = 2048
"""Short side in pixels of the largest pictures in which places are searched pixel by pixel."""
CONSISTENT = 0.75
"""Of a cell: how far matches may be from where those around them say."""
LASTING = 0.25
"""Share of the matches that a homography must keep while it is made more exact."""
REACH = 0.5
"""Of a cell: how far matches may be from where a homography says, and places from where they are searched."""


@dataclass(frozen=True)
class Seen:
    """A picture with unit-length features [h, w, D]."""

    picture: Picture
    grid: Grid
    features: Tensor

    @property
    def cell(self) -> float:
        """The longer side of a cell, in pixels of the picture."""
        height, width = self.grid.spans[0]
        return max(height / self.grid.rows, width / self.grid.cols)


@dataclass(frozen=True)
class Fit:
    """A homography [3, 3] and the matches that it was found from; bool [N]: which agree."""

    matrix: Floats
    inliers: Flags
    matches: Matches
    cell: float


def see(backbone: Backbone, look: Look, picture: Picture, name: str) -> Seen:
    """Look at a picture. Raises `UserError` with its `name` where it cannot be compared."""
    seen = look_at(backbone, picture, look, name)
    if min(seen.grid.rows, seen.grid.cols) < FEWEST:
        what = f"at this size {name} has {seen.grid.rows} x {seen.grid.cols} cells"
        raise UserError(what, "too few to compare: give a larger --size")
    return Seen(picture, seen.grid, describe([features.patches[0] for features in seen.layers]))


def match_cells(one: Seen, other: Seen, ratio: float = 1.0) -> Matches:
    """Cells that are each other's nearest, most similar first; ratio: see `Matcher`."""
    nearest = find_nearest(one.features, other.features)
    clear = (1 - nearest.similarity) <= ratio * (1 - nearest.runner_up)
    kept = (nearest.mutual & clear).nonzero()[:, 0]
    kept = kept[nearest.similarity[kept].argsort(descending=True, stable=True)]
    cells = torch.stack([kept // one.grid.cols, kept % one.grid.cols], dim=1).cpu()
    starts, ends = one.grid.to_pixels(cells).numpy(), other.grid.to_pixels(nearest.places[kept].cpu()).numpy()
    return Matches(starts, ends, nearest.similarity[kept].cpu().numpy(), one.picture, other.picture)


class HomographySearch:
    """Finds the homography between two pictures."""

    def __init__(self, backbone: Backbone, look: Look, first: Picture, second: Picture) -> None:
        self.backbone, self.look = backbone, look
        self.first, self.second = first, second

    def run(self) -> Fit:
        """The first that is sure, or the one that most matches agree with. `UserError` where there is none."""
        best: Fit | None = None
        problem: UserError | None = None
        for start in STARTS:
            try:
                fit = self._settle(self._start(*start))
            except UserError as error:
                problem = problem or error
                continue
            if best is None or fit.inliers.sum() > best.inliers.sum():
                best = fit
            if best.inliers.mean() >= SURE and best.inliers.sum() >= SUPPORT:
                return best
        if best is None:
            raise problem or AssertionError
        if best.inliers.sum() < SUPPORT:
            raise no_homography(len(best.inliers))
        return best

    @cached_property
    def _first(self) -> Seen:
        return see(self.backbone, self.look, self.first, FIRST)

    def _start(self, zoom: float, other_zoom: float, turn: float) -> Fit:
        """A homography from a first look."""
        one = self._first if zoom == 1 else see(self.backbone, self._zoomed(zoom), self.first, FIRST)
        matrix, size = turned((self.second.shape[0], self.second.shape[1]), turn)
        return self._compare(one, matrix, size, self._zoomed(other_zoom))

    def _settle(self, fit: Fit) -> Fit:
        """Look again through the homography, twice where the first time many cells do not agree yet."""
        fit = self._look_through(fit)
        if SURE / 2 < fit.inliers.mean() < 1.5 * SURE:
            again = self._look_through(fit)
            fit = again if again.inliers.sum() > fit.inliers.sum() else fit
        return fit

    def _look_through(self, fit: Fit) -> Fit:
        """Compare with the second picture as from where the first was taken."""
        return self._compare(self._first, fit.matrix, (self.first.shape[0], self.first.shape[1]), self.look)

    def _compare(self, one: Seen, matrix: Floats, size: tuple[int, int], look: Look) -> Fit:
        """A homography from the first picture and a view of the second through `matrix`, of height and width `size`."""
        matrix, (height, width) = self._reduced(matrix, size)
        view, inside = warp(self.second, places(matrix, (height, width)))
        other = see(self.backbone, look, view, SECOND)
        found = match_cells(one, other)
        cols, rows = np.clip(found.points2, 0, [width - 1, height - 1]).astype(int).T
        kept = inside[rows, cols]
        starts, ends = found.points1[kept], found.points2[kept]
        step, inliers = estimate(starts, ends, REACH * other.cell)
        matches = Matches(starts, transform(matrix, ends), found.score[kept], self.first, self.second)
        return Fit(_scaled(matrix @ step), inliers, matches, one.cell)

    def _reduced(self, matrix: Floats, size: tuple[int, int]) -> tuple[Floats, tuple[int, int]]:
        """The same view in fewer pixels, where it has more than the network looks at: each takes time and memory."""
        seen = self.look.size or self.backbone.info.image_size
        canvas = fit_to_grid(*size, seen, self.backbone.spec.side_multiple, SECOND)
        factor = min(size[0] / canvas[0], size[1] / canvas[1]) / OVERSAMPLING
        if factor <= 1:
            return matrix, size
        height, width = (max(round(side / factor), 1) for side in size)
        return matrix @ np.diag([size[1] / width, size[0] / height, 1.0]), (height, width)

    def _zoomed(self, zoom: float) -> Look:
        size = self.look.size
        if size is None or isinstance(size, str):
            return self.look
        sides = [max(round(side * zoom), 1) for side in ([size] if isinstance(size, int) else size)]
        return replace(self.look, size=sides[0] if isinstance(size, int) else sides)


def keep_consistent(matches: Matches, cell: float) -> Matches:
    """Without the matches that move otherwise than those around them."""
    starts, ends = torch.from_numpy(matches.points1), torch.from_numpy(matches.points2)
    kept = agree_locally(starts, ends, CONSISTENT * cell).numpy()
    return replace(matches, points1=matches.points1[kept], points2=matches.points2[kept], score=matches.score[kept])


def expect_points(points: Floats, around: Matches, cell: float) -> Tensor:
    """Where the matches around say that points [N, 2] go, NaN where they do not agree."""
    starts, ends = torch.from_numpy(around.points1), torch.from_numpy(around.points2)
    return expect(torch.from_numpy(points), starts, ends, CONSISTENT * cell)


def refine_points(matches: Matches, cell: float, support: Matches) -> Floats:
    """Where the squares of pixels around the matches are in the second picture, near where they were: [N, 2].

    support: matches that tell how squares become larger, turn and slant.
    """
    starts, ends = torch.from_numpy(matches.points1), torch.from_numpy(matches.points2)
    shapes = local_shapes(starts, torch.from_numpy(support.points1), torch.from_numpy(support.points2))
    for factor in _levels(matches.first, cell):
        one, other = shrink(matches.first, factor), shrink(matches.second, factor)
        here, there = _ratio(one, matches.first), _ratio(other, matches.second)
        steps = shapes * there[:, None] / here
        moved, alike = search_locally(one, other, starts * here, ends * there, steps)
        ends = torch.where((alike > ALIKE)[:, None], moved / there, ends)
    return np.asarray(ends.numpy())


def refine_fit(fit: Fit) -> Fit:
    """The homography from the squares of pixels around the matches that agree, searched in the warped picture."""
    first, second = fit.matches.first, fit.matches.second
    points, scores = fit.matches.points1[fit.inliers], fit.matches.score[fit.inliers]
    coarse = 1 / max(zoom(fit.matrix, (first.shape[0], first.shape[1])), 0.05)
    for factor in _levels(first, fit.cell, coarse):
        small = shrink(first, factor)
        scale = _ratio(small, first)
        matrix = fit.matrix @ np.diag([*(1 / scale.numpy()), 1.0])
        view, _ = warp(second, places(matrix, (small.shape[0], small.shape[1])))
        starts = torch.from_numpy(points) * scale
        moved, alike = search_locally(small, view, starts, starts, torch.eye(2).double().expand(len(starts), 2, 2))
        kept = (alike > ALIKE).numpy()
        try:
            step, inliers = estimate(starts.numpy()[kept], moved.numpy()[kept], 1.0)
        except UserError:
            continue  # too little texture at this level: what was found before stays
        if inliers.sum() < LASTING * len(starts):
            continue  # it left the plane
        whole = _scaled(matrix @ step @ np.diag([*scale.numpy(), 1.0]))
        ends = transform(matrix, moved.numpy()[kept])
        fit = Fit(whole, inliers, Matches(points[kept], ends, scores[kept], first, second), fit.cell)
    return fit


def _levels(picture: Picture, cell: float, coarse: float = 1.0) -> Iterator[float]:
    """By how much pictures are made smaller, one time after another, so that half a cell is within reach at first.

    coarse: by how much at least.
    """
    finest = max(min(picture.shape[:2]) / FINEST, coarse, 1.0)
    factor = max(REACH * cell / 10, finest)
    while factor > finest:
        yield factor
        factor /= 4
    yield finest


def _scaled(matrix: Floats) -> Floats:
    return np.asarray(matrix / matrix[2, 2])


def _ratio(small: Picture, large: Picture) -> Tensor:
    """Pixels (x, y) of the small one for a pixel of the large one: [2]."""
    return torch.tensor([small.shape[1] / large.shape[1], small.shape[0] / large.shape[0]], dtype=torch.float64)
