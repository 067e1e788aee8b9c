"""What is found in pictures without labels: the results of `tasks/discover.py`."""

from __future__ import annotations

import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dinokit.checkpoints.save import write_atomically
from dinokit.errors import UserError
from dinokit.images.draw import blend, draw_boxes, draw_labels, draw_points, palette, ramp

__all__: list[str] = []

Pixels = NDArray[np.uint8]
Path_ = str | os.PathLike[str]
_DIMMED = 0.75  # share of grey laid over the background


@dataclass(frozen=True)
class Discovery:
    """What stands out in one picture; nothing does where `boxes` is empty."""

    picture: Pixels
    """uint8 [H, W, 3]"""
    mask: NDArray[np.bool_]
    """[H, W]: the foreground, at the pixels of the picture."""
    scores: NDArray[np.float32]
    """[H, W], -1 to 1: how far a pixel is on the side of the foreground (above 0)."""
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

    def save(self, path: Path_) -> None:
        """Write the mask as PNG (0 and 255), or the boxes as JSON in the form of COCO, by the ending of `path`."""
        if _ending(path, ".png", ".json") == ".png":
            _write_png(path, Image.fromarray(self.mask.astype(np.uint8) * 255))
        else:
            write_coco(Path(path), {"": self})


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

    def save(self, path: Path_) -> None:
        """Write a PNG whose values are the numbers, shown in colours."""
        _ending(path, ".png")
        image = Image.fromarray(self.labels)
        image.putpalette(palette(self.count).tobytes())
        _write_png(path, image)


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

    def save(self, path: Path_) -> None:
        """Write the colours as PNG."""
        _ending(path, ".png")
        _write_png(path, Image.fromarray(self.colours))


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

    def save(self, path: Path_) -> None:
        """Write the drawing as PNG, or the cosines float32 [H, W] as NPY, by the ending of `path`."""
        if _ending(path, ".png", ".npy") == ".png":
            _write_png(path, Image.fromarray(self.draw()))
        else:
            content = io.BytesIO()
            np.save(content, self.values, allow_pickle=False)
            write_atomically(Path(path), content.getvalue())


def write_coco(path: Path, found: dict[str, Discovery]) -> None:
    """Write the boxes of discoveries by the file names of their pictures, as one file in the form of COCO."""
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "object"}]}
    for number, (name, one) in enumerate(found.items(), start=1):
        content["images"].append(describe_image(number, name, one))
        content["annotations"] += describe_boxes(number, one, len(content["annotations"]) + 1)
    write_atomically(path, json.dumps(content).encode())


def describe_image(number: int, name: str, found: Discovery) -> dict[str, Any]:
    """A picture in the form of COCO."""
    height, width = found.mask.shape
    return {"id": number, "file_name": name, "width": width, "height": height}


def describe_boxes(number: int, found: Discovery, first: int) -> list[dict[str, Any]]:
    """The boxes of picture `number` in the form of COCO, x, y, width, height; their ids count from `first`."""
    entries = []
    for n, ((x0, y0, x1, y1), score) in enumerate(zip(found.boxes.tolist(), found.box_scores.tolist(), strict=True)):
        box = [round(side, 2) for side in (x0, y0, x1 - x0, y1 - y0)]
        entry = {"id": first + n, "image_id": number, "category_id": 1, "bbox": box, "area": round(box[2] * box[3], 2)}
        entries.append(entry | {"iscrowd": 0, "score": round(score, 4)})
    return entries


def _ending(path: Path_, *known: str) -> str:
    ending = Path(path).suffix.lower()
    if ending not in known:
        raise UserError(f"{os.fspath(path)} has no ending that is known here", f"name a file {' or '.join(known)}")
    return ending


def _write_png(path: Path_, image: Image.Image) -> None:
    content = io.BytesIO()
    image.save(content, "PNG")
    write_atomically(Path(path), content.getvalue())
