"""From what a person gives to what a network takes: each picture as a view on the patch grid.

A view knows where it lies in its source picture, so that the features of its cells can be placed there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from dinokit.backbones.network import Spec
from dinokit.data.listing import find_pictures, no_pictures
from dinokit.errors import UserError
from dinokit.images.geometry import Fit, Layout, Size, lay_out, place
from dinokit.images.normalize import Statistics
from dinokit.images.read import Picture, Source, name_of, read


@dataclass(frozen=True)
class View:
    """A picture on the patch grid."""

    pixels: Tensor
    """uint8 [C, h, w]"""
    size: tuple[int, int]
    """Height and width of the source picture, in pixels."""
    span: tuple[float, float]
    """Height and width of the view in pixels of the source picture: with padding, more than it has."""

    @staticmethod
    def of(picture: Picture, layout: Layout, fill: Sequence[int] = (), size: tuple[int, int] | None = None) -> View:
        """The view of a picture uint8 [H, W, C]. fill: the colour of padding. size: of the source, if it is larger."""
        size = size or (picture.shape[0], picture.shape[1])
        return View(place(picture, layout, fill), size, layout.span(*size))


def expand(pictures: Source | Iterable[Source]) -> list[Source]:
    """Single pictures, in order: the files of folders and patterns in the listing's order, the pictures of a batch.

    `pictures`: what `images.read` takes, a folder, a glob or brace pattern, a tensor [B, C, H, W], or several of all
    these. Raises `UserError` for a folder or pattern without pictures, and where there is none at all.
    """
    given: list[Any]
    if isinstance(pictures, (bytearray, memoryview)):
        pictures = bytes(pictures)
    if isinstance(pictures, (str, os.PathLike, bytes, Image.Image, np.ndarray, Tensor)):
        given = [pictures]
    elif isinstance(pictures, Iterable) and not (isinstance(pictures, Mapping) or hasattr(pictures, "read")):
        given = list(pictures)
    else:
        raise UserError(f"{pictures!r:.80} is no picture", "give a path, bytes, a Pillow picture, an array or a tensor")
    found = [source for one in given for source in _expand_one(one)]
    if not found:
        raise UserError("there are no pictures to encode", "give at least one")
    return found


def read_views(sources: Sequence[Source], size: Size, fit: Fit, spec: Spec, statistics: Statistics) -> list[View]:
    """Read pictures for a network of this `spec` and lay them out on its grid; see `images.geometry.lay_out`.

    Padding is filled with the mean of `statistics`. Raises `ReadError` naming the picture, by its path or its place.
    """
    views = []
    for number, source in enumerate(sources):
        by_place = len(sources) > 1 and not isinstance(source, (str, os.PathLike))
        name = f"picture {number}" if by_place else name_of(source)
        picture = read(source, name, channels=spec.in_channels)
        layout = lay_out(picture.shape[0], picture.shape[1], size, spec.side_multiple, fit, name)
        views.append(View.of(picture, layout, statistics.grey))
    return views


def _expand_one(source: Any) -> Iterable[Source]:
    if isinstance(source, Tensor) and source.ndim == 4:
        return source.unbind()
    if not isinstance(source, (str, os.PathLike)):
        return [source]
    others: set[Path] = set()
    paths = find_pictures(source, others)
    if not paths:
        raise no_pictures(os.fspath(source), others)
    return paths
