"""How often a box that was found without labels is right: CorLoc.

The share of pictures in which the one box overlaps that of any annotated object by more than half (intersection over
union), as in Cho et al. 2015 and the literature on object discovery since. Crowds are no objects.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dinokit.data.coco import read_coco
from dinokit.errors import UserError

__all__: list[str] = []

OVERLAP = 0.5


@dataclass(frozen=True)
class KnownObjects:
    """A picture and the boxes of its objects."""

    path: Path
    size: tuple[int, int]
    """Height and width in pixels."""
    boxes: NDArray[np.float64]
    """[N, 4]: x0, y0, x1, y1 in pixels; at least one."""

    def check_size(self, size: tuple[int, int]) -> None:
        """Raise `UserError` if the picture has another size (height, width) than the boxes are meant for."""
        if size != self.size:
            what = f"the boxes of {self.path} are those of {self.size[1]} x {self.size[0]} px"
            raise UserError(what, f"it is {size[1]} x {size[0]}: give the pictures that were annotated")


@dataclass(frozen=True)
class DiscoveryScore:
    """How well one box a picture finds objects."""

    corloc: float
    """Per cent of the pictures in which it overlaps an object by more than half."""
    overlap: float
    """Mean intersection over union with the object that it overlaps most, 0 to 1."""
    found: NDArray[np.bool_]
    """[N]: in which pictures."""
    paths: tuple[Path, ...]
    """The N pictures, those with an object."""


def read_objects(annotations: str | os.PathLike[str]) -> list[KnownObjects]:
    """The pictures of a COCO file that have an object. Raises `UserError` as `read_coco`, and where there is none."""
    known = []
    for picture in read_coco(Path(annotations)).pictures:
        boxes = np.array([one.box for one in picture.instances if not one.crowd]).reshape(-1, 4)
        boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(axis=1)]
        if len(boxes):
            known.append(KnownObjects(picture.path, (picture.height, picture.width), boxes))
    if not known:
        raise UserError(f"{os.fspath(annotations)} has no picture with an object", "name pictures with boxes")
    return known


def score_boxes(found: Sequence[ArrayLike | None], known: Sequence[KnownObjects]) -> DiscoveryScore:
    """CorLoc of one box (x0, y0, x1, y1) a picture, or None where nothing was found."""
    best = np.array(
        [0.0 if box is None else overlaps(box, one.boxes).max() for box, one in zip(found, known, strict=True)]
    )
    hits = best > OVERLAP
    return DiscoveryScore(100 * float(hits.mean()), float(best.mean()), hits, tuple(one.path for one in known))


def overlaps(box: ArrayLike, others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of one box with others [N, 4]: [N]."""
    one = np.asarray(box, dtype=np.float64)
    sides = np.minimum(one[2:], others[:, 2:]) - np.maximum(one[:2], others[:, :2])
    shared = np.maximum(sides, 0).prod(axis=1)
    union = (one[2:] - one[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(axis=1) - shared
    return np.asarray(shared / np.maximum(union, 1e-12))
