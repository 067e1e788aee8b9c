"""What is found in pictures without labels: the results of `tasks/discover.py`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dinokit.checkpoints.save import write_atomically
from dinokit.errors import UserError
from dinokit.images.draw import blend, draw_boxes, draw_labels, draw_points, palette, ramp
from dinokit.tasks.results import save_array, save_image, save_labels, save_picture

__all__: list[str] = []

Pixels = NDArray[np.uint8]
FileName = str | os.PathLike[str]
_DIMMED = 0.75  # share of grey laid over the background


@dataclass(frozen=True)
class Discovery:
    """What stands out in one picture; nothing does where `boxes` is empty."""

    picture: Pixels
    """uint8 [H, W, 3]"""
    mask: NDArray[np.bool_]
    """[H, W]: the foreground, at the pixels of the picture."""
    scores: NDArray[np.float32]
    """[H, W], -1 to 1: how far a place is on the side of the foreground, linearly between the patches."""
    cells: NDArray[np.bool_]
    """[h, w]: the foreground on the patch grid."""
    boxes: NDArray[np.float32]
    """[K, 4]: x0, y0, x1, y1 in pixels, one for each connected piece of `cells`, the most prominent first."""
    box_scores: NDArray[np.float32]
    """[K], 0 to 1: how prominent, the share of the foreground that the piece has."""

    def draw(self) -> Pixels:
        """The picture with its background dimmed and the first box: uint8 [H, W, 3]."""
        grey = np.full_like(self.picture, 32)
        dimmed = blend(self.picture, grey, np.where(self.mask, 0.0, _DIMMED))
        return draw_boxes(dimmed, self.boxes[:1].tolist())

    def save(self, path: FileName) -> None:
        """Write the mask as PNG (0 and 255), or the boxes as JSON in the form of COCO, by the ending of `path`."""
        if Path(path).suffix.lower() == ".json":
            write_coco(Path(path), {"": self.found})
        else:
            save_image(Path(path), Image.fromarray(self.mask.astype(np.uint8) * 255), (".png", ".json"))

    @property
    def found(self) -> FoundBoxes:
        """The boxes alone."""
        height, width = self.mask.shape
        return FoundBoxes((height, width), self.boxes.tolist(), self.box_scores.tolist())


@dataclass(frozen=True)
class Segments:
    """One picture in segments of alike patches; in pictures that were segmented together a number is one kind."""

    picture: Pixels
    """uint8 [H, W, 3]"""
    labels: NDArray[np.uint8]
    """[H, W]: the number of the segment of each pixel."""
    cells: NDArray[np.uint8]
    """[h, w]: the same on the patch grid."""
    count: int
    """Of segments in the whole set; this picture need not have all."""

    def draw(self) -> Pixels:
        """The segments in colours over the picture: uint8 [H, W, 3]."""
        return draw_labels(self.labels, self.count, self.picture)

    def save(self, path: FileName) -> None:
        """Write the numbers as PNG, shown in colours, or as NPY, by the ending of `path`."""
        save_labels(Path(path), self.labels, palette(self.count))


@dataclass(frozen=True)
class ColourMap:
    """The features of one picture as colours; in pictures coloured together a colour is one kind."""

    picture: Pixels
    """uint8 [H, W, 3]"""
    colours: Pixels
    """uint8 [H, W, 3]"""
    cells: Pixels
    """uint8 [h, w, 3]: the same on the patch grid."""

    def draw(self) -> Pixels:
        """The colours: uint8 [H, W, 3]."""
        return self.colours

    def save(self, path: FileName) -> None:
        """Write the colours as PNG or JPEG, by the ending of `path`."""
        save_picture(Path(path), self.colours)


@dataclass(frozen=True)
class SimilarityMap:
    """How alike all places of a picture are to one of them."""

    picture: Pixels
    """uint8 [H, W, 3]"""
    point: tuple[float, float]
    """(x, y) in pixels."""
    values: NDArray[np.float32]
    """[H, W]: cosines, 1 for the same."""
    cells: NDArray[np.float32]
    """[h, w]: the same on the patch grid."""

    def draw(self) -> Pixels:
        """The cosines from dark violet to yellow over the picture, and the point: uint8 [H, W, 3]."""
        return draw_points(blend(self.picture, ramp(self.values), 0.7), np.array([self.point]))

    def save(self, path: FileName) -> None:
        """Write the cosines as NPY float32 [H, W], or the drawing as PNG or JPEG, by the ending of `path`."""
        if Path(path).suffix.lower() == ".npy":
            save_array(Path(path), self.values)
        else:
            save_picture(Path(path), self.draw())


@dataclass(frozen=True)
class FoundBoxes:
    """The boxes of one picture, without its pixels."""

    size: tuple[int, int]
    """Height and width of the picture."""
    boxes: list[list[float]]
    """(x0, y0, x1, y1) in pixels each."""
    scores: list[float]
    name: str = ""
    """What its maps are called."""


def read_found(path: Path) -> dict[str, FoundBoxes]:
    """What `write_coco` wrote; nothing where there is no file. `UserError` for a file of another form."""
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = {
            one["id"]: FoundBoxes((one["height"], one["width"]), [], [], Path(one.get("maps", "")).name)
            for one in content["images"]
        }
        for place in content["annotations"]:
            x, y, width, height = place["bbox"]
            found[place["image_id"]].boxes.append([x, y, x + width, y + height])
            found[place["image_id"]].scores.append(float(place["score"]))
        return {one["file_name"]: found[one["id"]] for one in content["images"]}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        raise UserError(f"{path} holds no boxes that were found here", "remove it, or name another folder") from None


def write_coco(path: Path, found: Mapping[str, FoundBoxes]) -> None:
    """Write boxes by the file names of their pictures, as one file in the form of COCO with one category, object."""
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for number, (name, one) in enumerate(found.items(), start=1):
        about = {"id": number, "file_name": name, "height": one.size[0], "width": one.size[1]}
        images.append(about | ({"maps": one.name} if one.name else {}))
        for (x0, y0, x1, y1), score in zip(one.boxes, one.scores, strict=True):
            box = [round(side, 2) for side in (x0, y0, x1 - x0, y1 - y0)]
            place = {"id": len(annotations) + 1, "image_id": number, "category_id": 1, "bbox": box}
            annotations.append(place | {"area": box[2] * box[3], "iscrowd": 0, "score": round(score, 4)})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "object"}]}
    write_atomically(path, json.dumps(content).encode())
