"""COCO JSON: pictures with instances as polygons or run lengths, read as one class a pixel.

The format of Lin et al. (ECCV 2014). A pixel without an instance is background; where instances overlap the smaller
one counts; crowd regions count for nothing. Pictures lie in a folder named as the file (train.json, train/), in
images/ beside it, or beside it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dinokit.errors import UserError
from dinokit.images.pixels import MAX_PIXELS

Mask = NDArray[np.bool_]

BACKGROUND = "background"
_LARGEST = 1 << 30
"""Bytes of a file that is read: COCO's largest has half of it."""
_FINE = 4


@dataclass(frozen=True)
class Instance:
    """One thing in a picture."""

    category: int
    """Place of its category in `Coco.categories`."""
    box: tuple[float, float, float, float]
    """x0, y0, x1, y1 in pixels."""
    area: float
    crowd: bool
    outline: Any
    """Polygons [[x, y, x, y, …], …], or run lengths {"counts", "size"}."""


@dataclass(frozen=True)
class CocoPicture:
    """A picture of the file."""

    path: Path
    height: int
    width: int
    instances: tuple[Instance, ...]


@dataclass(frozen=True)
class Coco:
    """What a COCO file says."""

    path: Path
    categories: tuple[str, ...]
    """In the order of their numbers."""
    pictures: tuple[CocoPicture, ...]

    def classes(self, i: int, ignore: int) -> NDArray[np.int32]:
        """The class of every pixel of picture `i` [H, W]: 0 background, 1 the first category; `ignore` for crowds."""
        picture = self.pictures[i]
        found = np.zeros((picture.height, picture.width), dtype=np.int32)
        for instance in sorted(picture.instances, key=lambda one: (not one.crowd, -one.area)):
            inside = self.mask(picture, instance)
            found[inside] = ignore if instance.crowd else instance.category + 1
        return found

    def mask(self, picture: CocoPicture, instance: Instance) -> Mask:
        """Which pixels [H, W] an instance covers. `UserError` naming file and picture for an outline that is none."""
        try:
            return draw_outline(instance.outline, picture.height, picture.width)
        except (ValueError, TypeError, KeyError, OverflowError) as problem:
            what = f"{self.path}: an instance of {picture.path.name} has no outline ({problem})"
            raise UserError(what, "segmentation is a list of polygons, or counts and size") from None


def read_coco(path: Path) -> Coco:
    """Read a COCO file; `UserError` naming what is wrong in it, or the picture that is not found."""
    try:
        if path.stat().st_size > _LARGEST:
            raise UserError(f"{path} is larger than {_LARGEST >> 20} MiB", "split it")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as problem:
        raise UserError(f"{path} cannot be read ({str(problem)[:120]})", "give a COCO file in JSON") from None
    try:
        return _interpret(path, content)
    except (KeyError, TypeError, ValueError, OverflowError) as problem:
        what = f"{path} is no COCO file ({type(problem).__name__}: {problem})"
        raise UserError(what, "it needs images, annotations and categories as COCO has them") from None


def _interpret(path: Path, content: Any) -> Coco:
    numbers = {category["id"]: str(category["name"]) for category in content["categories"]}
    places = {number: place for place, number in enumerate(sorted(numbers))}
    instances: dict[Any, list[Instance]] = defaultdict(list)
    for annotation in content["annotations"]:
        if annotation["category_id"] not in places:
            what = f"{path}: annotation {annotation.get('id')} has the unknown category {annotation['category_id']}"
            raise UserError(what, "add it to categories")
        x, y, width, height = (float(side) for side in annotation["bbox"])
        instance = Instance(
            category=places[annotation["category_id"]],
            box=(x, y, x + width, y + height),
            area=float(annotation.get("area", width * height)),
            crowd=bool(annotation.get("iscrowd", 0)),
            outline=annotation.get("segmentation"),
        )
        instances[annotation["image_id"]].append(instance)
    folder = _pictures_of(path)
    pictures = []
    for image in content["images"]:
        height, width = int(image["height"]), int(image["width"])
        if min(height, width) < 1 or height * width > MAX_PIXELS:
            raise UserError(f"{path}: {image['file_name']} has {width} x {height} px", f"give 1 to {MAX_PIXELS:,}")
        place = folder / str(image["file_name"])
        if not place.is_file():
            raise UserError(f"{path} names {place}, which is not found", "put the pictures beside the file")
        pictures.append(CocoPicture(place, height, width, tuple(instances[image["id"]])))
    return Coco(path, tuple(numbers[number] for number in sorted(numbers)), tuple(pictures))


def _pictures_of(path: Path) -> Path:
    for folder in (path.with_suffix(""), path.parent / "images"):
        if folder.is_dir():
            return folder
    return path.parent


def draw_outline(outline: Any, height: int, width: int) -> Mask:
    """Polygons or run lengths as a mask [H, W]; `ValueError` and the like for anything else."""
    if isinstance(outline, dict):
        return _draw_runs(outline["counts"], [int(side) for side in outline["size"]], height, width)
    found = np.zeros((height, width), dtype=bool)
    for polygon in outline:
        points = np.asarray(polygon, dtype=np.float64)
        if points.ndim != 1 or len(points) % 2 or not np.isfinite(points).all():
            raise ValueError("a polygon is a list of x, y, x, y")
        if len(points) >= 6:
            _draw_polygon(found, np.clip(points.reshape(-1, 2), 0, (width, height)))
    return found


def _draw_polygon(found: Mask, points: NDArray[np.float64]) -> None:
    """Add the pixels of which the polygon covers half or more, by `_FINE` x `_FINE` samples each."""
    (left, top), (right, bottom) = np.floor(points.min(0)).astype(int), np.ceil(points.max(0)).astype(int)
    rows, cols = max(bottom - top, 1), max(right - left, 1)
    fine = _FINE if rows * cols * _FINE**2 <= MAX_PIXELS else 1
    image = Image.new("1", (int(cols) * fine, int(rows) * fine))
    corners = (points - (left, top)) * fine - 0.5  # Pillow counts from the centres of pixels
    ImageDraw.Draw(image).polygon([tuple(point) for point in corners], fill=1)
    share = np.array(image, dtype=np.float32).reshape(rows, fine, cols, fine).mean(axis=(1, 3))
    part = found[top:bottom, left:right]
    part |= share[: part.shape[0], : part.shape[1]] >= 0.5


def _draw_runs(counts: Any, size: list[int], height: int, width: int) -> Mask:
    """Runs of pixels outside and inside by turns, down the columns."""
    if size != [height, width]:
        raise ValueError(f"its size is {size}, the picture's [{height}, {width}]")
    runs = np.asarray(_unpack_counts(counts) if isinstance(counts, str) else counts, dtype=np.int64)
    pixels = height * width
    if runs.ndim != 1 or len(runs) > pixels + 1 or (runs < 0).any() or (runs > pixels).any() or runs.sum() != pixels:
        raise ValueError("its runs do not add up to the picture")
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(width, height).T


def _unpack_counts(text: str) -> list[int]:
    """COCO's compressed run lengths: five bits a character, low ones first; from the third on less the last but one."""
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 30:
            raise ValueError("its run lengths are damaged")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (1 << shift) if bits & 16 else 0
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return counts
