"""What can be found in pictures without any label: things that stand out, segments, colours, alike places.

Foreground by the normalised cut (`heads/normalised_cut.py`), segments by k-means (`heads/patch_clusters.py`), colours
by principal components (`heads/colours.py`), places by cosine. Nothing here is trained.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from dinokit.data.video import Video, is_video, open_video
from dinokit.errors import UserError
from dinokit.heads.colours import PatchColours
from dinokit.heads.normalised_cut import MOST_PATCHES, normalised_cut
from dinokit.heads.patch_clusters import PatchClusters
from dinokit.heads.patches import Floats, unit_length, without_trend
from dinokit.images.edges import opencv, refine, to_pixels
from dinokit.images.geometry import Size
from dinokit.images.kinds import Finding
from dinokit.images.read import ReadError, Source, name_of
from dinokit.inference.backbone import Backbone
from dinokit.inference.layers import Look, PictureFeatures, read_pictures
from dinokit.inference.views import expand
from dinokit.tasks.discover_results import ColourMap, Discovery, Segments, SimilarityMap
from dinokit.tasks.discover_score import DiscoveryScore, read_objects, score_boxes
from dinokit.tasks.task import BATCH, PictureTask, is_single

__all__ = ["Discoverer"]

SIZE = 320
"""Short side in pixels at which pictures are looked at unless a person says otherwise."""
COUNT, MOST_SEGMENTS = 6, 256
FITTED_ON = 64
"""Pictures of a set from which segments and colours are learnt, unless a person says otherwise."""
_CHUNK = 16  # pictures that are held at a time

Fitted = TypeVar("Fitted")
Result = TypeVar("Result")
Several = Source | Iterable[Source]


class Discoverer(PictureTask[Discovery]):
    """Finds what stands out in a picture; and segments, colours and alike places.

    size: at which pictures are looked at, see `Backbone.encode`. layer: the block whose patches are read (from 0;
    negative from the end; None: the one that makes the sharpest maps, as the model says). threshold: the cosine above
    which two patches are linked, -1 to 1; None: the median of each picture. refine: edges follow those of the pixels
    (needs the extra "edges").
    """

    def __init__(
        self,
        backbone: Backbone,
        size: Size | None = SIZE,
        layer: int | None = None,
        threshold: float | None = None,
        refine: bool = False,
    ) -> None:
        if threshold is not None and not -1.0 <= threshold <= 1.0:
            raise UserError(f"threshold is {threshold}", "give a cosine between -1 and 1")
        if refine:
            opencv()  # missing, it is said before the work
        super().__init__(backbone, Look((backbone.info.map_layer if layer is None else layer,), size))
        self.threshold, self.refine = threshold, refine

    def predict_each(self, pictures: Sequence[Source], batch_size: int = BATCH) -> Iterator[Discovery]:
        """See `PictureTask`. Raises `ReadError` for a picture of more than `MOST_PATCHES`, which are compared."""
        look = replace(self.look, most_patches=MOST_PATCHES)
        for seen in read_pictures(self.backbone, pictures, look, batch_size):
            yield self.read(seen)

    def read(self, seen: PictureFeatures) -> Discovery:
        """What stands out in a picture."""
        cut = normalised_cut(without_trend(_patches(seen)), self.threshold)
        cells = cut.values > 0
        mask = self._pixels(cells.astype(np.float32), seen) > 0.5
        boxes = np.array([_box(part, seen) for part in cut.parts], np.float32).reshape(-1, 4)
        scores = to_pixels(cut.values, seen.grid)
        return Discovery(seen.picture, mask, scores, cells, boxes, np.array(cut.scores, np.float32))

    def look_at(self, picture: Source) -> PictureFeatures:
        """A picture with its features, for many calls of `similar`."""
        [seen] = read_pictures(self.backbone, [picture], self.look)
        return seen

    def similar(self, picture: Source | PictureFeatures, point: Sequence[float] | None = None) -> SimilarityMap:
        """How alike all places of a picture are to `point` (x, y) in its pixels; None: its middle.

        Raises `ReadError` for a point outside the picture.
        """
        seen = picture if isinstance(picture, PictureFeatures) else self.look_at(picture)
        height, width = seen.picture.shape[:2]
        x, y = (width / 2, height / 2) if point is None else _as_point(point)
        if not (0 <= x < width and 0 <= y < height):
            what = f"has {width} x {height} px, and the point {x:g}, {y:g} lies outside"
            raise ReadError(name_of(picture), Finding(what, "give x and y in pixels from its top left corner"))
        unit = unit_length(_patches(seen))
        row, col = seen.grid.to_cells([x, y]).round().long().tolist()
        cosines = unit @ unit[min(max(row, 0), seen.grid.rows - 1), min(max(col, 0), seen.grid.cols - 1)]
        return SimilarityMap(seen.picture, (x, y), self._pixels(cosines, seen), cosines)

    def segments(self, pictures: Several, count: int = COUNT, fit_on: int = FITTED_ON) -> Segments | list[Segments]:
        """`count` segments of alike patches in a picture, or in all of several together: a list, in order.

        A number is one kind of thing in all pictures, the most frequent first. See `segments_each`.
        """
        results = list(self.segments_each(pictures, count, fit_on))
        return results[0] if is_single(pictures) else results

    def segments_each(self, pictures: Several, count: int = COUNT, fit_on: int = FITTED_ON) -> Iterator[Segments]:
        """The same one after another, also of the frames of a video (a file, or `data.video.open_video`) or a stream.

        The kinds are learnt from `fit_on` pictures, spread evenly, or the first ones of a stream, which is an iterator
        of pictures or a video that does not say its length. Raises `UserError`
        for more segments than patches.
        """
        if not 1 <= count <= MOST_SEGMENTS:
            raise UserError(f"count is {count}", f"give a number of segments from 1 to {MOST_SEGMENTS}")
        return self._each(pictures, fit_on, lambda patches: PatchClusters.fit(patches, count), self._segment)

    def colours(self, pictures: Several, fit_on: int = FITTED_ON) -> ColourMap | list[ColourMap]:
        """The features of a picture as colours; of several, with one colour for one kind of thing in all of them."""
        results = list(self.colours_each(pictures, fit_on))
        return results[0] if is_single(pictures) else results

    def colours_each(self, pictures: Several, fit_on: int = FITTED_ON) -> Iterator[ColourMap]:
        """The same one after another, also of a stream; what colours mean is learnt as in `segments_each`."""
        return self._each(pictures, fit_on, PatchColours.fit, self._colour)

    def evaluate(self, annotations: str | os.PathLike[str], batch_size: int = 16) -> DiscoveryScore:
        """How often the first box finds an object (CorLoc), on the pictures of a COCO file, see `data.coco`.

        Raises `UserError` for a file of another form, missing pictures and a file without objects.
        """
        known = read_objects(annotations)
        boxes = []
        for entry, one in zip(known, self.predict_each([entry.path for entry in known], batch_size), strict=True):
            entry.check_size(one.picture.shape[:2])
            boxes.append(one.boxes[0] if len(one.boxes) else None)
        return score_boxes(boxes, known)

    def _each(
        self,
        pictures: Several,
        fit_on: int,
        fit: Callable[[list[Floats]], Fitted],
        apply: Callable[[Fitted, PictureFeatures], Result],
    ) -> Iterator[Result]:
        """What `apply` makes of each picture with what `fit` learns from the patches of `fit_on` of them."""
        if fit_on < 1:
            raise UserError(f"fit_on is {fit_on}", "give a number of pictures, 1 or more")
        chosen, rest = _to_learn_from(pictures, fit_on)
        fitted = fit([_patches(seen) for seen in read_pictures(self.backbone, chosen, self.look)])
        while part := list(islice(rest, _CHUNK)):
            for seen in read_pictures(self.backbone, part, self.look, _CHUNK):
                yield apply(fitted, seen)

    def _segment(self, kinds: PatchClusters, seen: PictureFeatures) -> Segments:
        distances = kinds.distances(_patches(seen))
        nearest = self._pixels(distances[..., 0], seen)
        labels = np.zeros(nearest.shape, np.uint8)
        for number in range(1, distances.shape[-1]):  # one map at a time: all would be large
            distance = self._pixels(distances[..., number], seen)
            closer = distance < nearest
            labels[closer] = number
            nearest = np.where(closer, distance, nearest)
        return Segments(seen.picture, labels, distances.argmin(axis=-1).astype(np.uint8), len(kinds.centres))

    def _colour(self, colours: PatchColours, seen: PictureFeatures) -> ColourMap:
        cells = colours.of(_patches(seen))
        shades = [self._pixels(cells[..., n].astype(np.float32), seen) for n in range(3)]
        pixels = np.clip(np.round(np.stack(shades, axis=-1)), 0, 255).astype(np.uint8)
        return ColourMap(seen.picture, pixels, cells)

    def _pixels(self, values: Floats, seen: PictureFeatures) -> Floats:
        """A map [h, w] on the patches as one of the pixels [H, W]."""
        pixels = to_pixels(values, seen.grid)
        return refine(pixels, seen.picture, seen.grid) if self.refine else pixels


def _patches(seen: PictureFeatures) -> Floats:
    """The patches [h, w, D]."""
    return np.asarray(seen.layers[-1].patches[0].float().cpu().numpy())


def _box(part: NDArray[np.bool_], seen: PictureFeatures) -> list[float]:
    """The box of a piece of the grid, (x0, y0, x1, y1) in pixels of the picture."""
    rows, cols = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
    (height, width), (high, wide) = seen.grid.sizes[0], seen.grid.spans[0]
    down, across = high / seen.grid.rows, wide / seen.grid.cols
    ends = [min((cols[-1] + 1) * across, width), min((rows[-1] + 1) * down, height)]
    return [float(cols[0] * across), float(rows[0] * down), *map(float, ends)]


def _as_point(point: Sequence[float]) -> tuple[float, float]:
    try:
        x, y = (float(number) for number in point)
    except (TypeError, ValueError):
        raise UserError(f"the point is {point!r}", "give x and y in pixels") from None
    return x, y


def _to_learn_from(pictures: Several, count: int) -> tuple[list[Source], Iterator[Source]]:
    """At most `count` pictures, spread evenly, or the first ones of a stream; and all, one after another.

    A video is read twice and never held.
    """
    if isinstance(pictures, (str, os.PathLike)) and is_video(pictures):
        pictures = open_video(pictures)
    if isinstance(pictures, Video) and pictures.count:
        numbers = set(_spread(pictures.count, count))
        return [frame for n, frame in enumerate(pictures) if n in numbers], iter(pictures)
    if isinstance(pictures, (Iterator, Video)):
        stream: Iterator[Source] = iter(pictures)
        chosen: list[Source] = list(islice(stream, count))
        return chosen, chain(chosen, stream)
    sources = expand(pictures)
    return [sources[n] for n in _spread(len(sources), count)], iter(sources)


def _spread(total: int, count: int) -> list[int]:
    """At most `count` numbers below `total`, evenly."""
    return [int(n) for n in np.linspace(0, total - 1, min(count, total)).round()]
