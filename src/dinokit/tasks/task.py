"""What all jobs on single pictures have in common: one pass of the frozen backbone, then a head reads the features.

Every job has the same verbs, as far as they make sense: `fit`, `predict`, `evaluate`, `save`, `load`. A result is a
frozen dataclass that can `draw()` and `save()` itself.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar

import numpy as np
from PIL import Image
from torch import Tensor

from dinokit.data.video import is_video
from dinokit.errors import UserError
from dinokit.images.geometry import Size
from dinokit.images.read import Source
from dinokit.inference.backbone import Backbone
from dinokit.inference.layers import Look, PictureFeatures, read_pictures
from dinokit.inference.views import expand

__all__ = ["MultiTask"]

Result = TypeVar("Result")

BATCH = 16
"""Pictures that are looked at together."""


class PictureTask(ABC, Generic[Result]):
    """A job on one picture at a time. `read` is its head: from features that are already there to a result."""

    def __init__(self, backbone: Backbone, look: Look) -> None:
        self.backbone = backbone
        self.look = look.of(backbone)

    @abstractmethod
    def read(self, seen: PictureFeatures) -> Result:
        """The result for one picture whose layers are those of `self.look`, at whatever size it was looked at."""

    def predict(self, pictures: Source | Iterable[Source], batch_size: int = BATCH) -> Result | list[Result]:
        """The result of one picture, or a list of results for several (a list, a folder, a pattern, a batch).

        Raises `UserError` for what cannot be read.
        """
        sources = expand(pictures)
        results = list(self.predict_each(sources, batch_size))
        return results[0] if is_single(pictures) else results

    def predict_each(self, pictures: Sequence[Source], batch_size: int = BATCH) -> Iterator[Result]:
        """Results one after another, in order; at most `batch_size` pictures are held at a time."""
        for seen in read_pictures(self.backbone, pictures, self.look, batch_size):
            yield self.read(seen)


class MultiTask:
    """Several jobs on one pass of the backbone: each head reads the same features.

    All must have the same backbone and tile. size: at which the pictures are looked at; None: the largest short side
    of a job. Raises `UserError` for jobs that do not go together.
    """

    def __init__(self, backbone: Backbone, tasks: Mapping[str, PictureTask[Any]], size: Size | None = None) -> None:
        if not tasks or not isinstance(tasks, Mapping):
            raise UserError("no jobs were given", 'give some, such as {"segment": segmenter}')
        strangers = [name for name, task in tasks.items() if task.backbone is not backbone]
        if strangers:
            raise UserError(f"{strangers[0]} has another backbone", "make or load all jobs with this one")
        self.backbone, self.tasks = backbone, dict(tasks)
        layers = tuple(sorted({layer for task in tasks.values() for layer in task.look.layers}))
        self.look = Look(layers, _largest(tasks) if size is None else size, _tile(tasks)).of(backbone)

    def predict(self, pictures: Source | Iterable[Source], batch_size: int = BATCH) -> Any:
        """A dict with the result of each job for one picture; a list of these for several."""
        sources = expand(pictures)
        results = [self.read(seen) for seen in read_pictures(self.backbone, sources, self.look, batch_size)]
        return results[0] if is_single(pictures) else results

    def read(self, seen: PictureFeatures) -> dict[str, Any]:
        """The result of each job, by its name."""
        place = {layer: n for n, layer in enumerate(self.look.layers)}
        return {
            name: task.read(replace(seen, layers=tuple(seen.layers[place[layer]] for layer in task.look.layers)))
            for name, task in self.tasks.items()
        }


def is_single(pictures: Any) -> bool:
    """Whether `pictures` is one picture, and not several or what stands for several."""
    if isinstance(pictures, Tensor):
        return pictures.ndim < 4
    if isinstance(pictures, (str, os.PathLike)):
        return os.path.isfile(pictures) and not is_video(pictures)
    return isinstance(pictures, (bytes, bytearray, memoryview, Image.Image, np.ndarray))


def _largest(tasks: Mapping[str, PictureTask[Any]]) -> Size:
    """The short side that suits all: of a square or rectangle its shorter one; "native" if a job wants that."""
    sizes = [task.look.size for task in tasks.values() if task.look.size is not None]
    if "native" in sizes:
        return "native"
    return max(size if isinstance(size, int) else min(int(side) for side in size) for size in sizes)


def _tile(tasks: Mapping[str, PictureTask[Any]]) -> int | None:
    tiles = {task.look.tile for task in tasks.values()}
    if len(tiles) > 1:
        what = "the jobs look at pictures in tiles of " + ", ".join(
            f"{task.look.tile} ({name})" for name, task in tasks.items()
        )
        raise UserError(what, "load or fit them with the same tile")
    return tiles.pop()
