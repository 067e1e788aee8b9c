"""A list of pictures through a backbone, chunk after chunk, in order: what `embed` and `features` have in common.

Threads decode the next chunk while the network looks at the present one, in batches of one shape each. Chunks start
small, so that the network hardly waits for the first, and grow until they take some seconds or fill their share of
memory, so that most batches are full: memory holds two of them, however many pictures there are. Large photographs
are decoded at twice the size at which they are looked at, which is several times faster (docs/embeddings.md has what
it changes).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, NoReturn, TypeVar

import torch

from dinokit.backbones.features import Features
from dinokit.data.pictures import Pictures
from dinokit.errors import UserError
from dinokit.images import read as reading
from dinokit.images.geometry import lay_out
from dinokit.inference.backbone import Backbone
from dinokit.inference.views import View

CHUNK_SECONDS = 5.0
"""About what a chunk takes at most, and so what an interruption loses."""
CHUNK_BYTES = 64 << 20
"""About what the views and results of a chunk take at most (a chunk has one picture at least)."""
CHUNK_PICTURES = 512

T = TypeVar("T")


@dataclass(frozen=True)
class Seen(Generic[T]):
    """One picture: its (height, width) in pixels and what was found in it, or why it could not be read."""

    shape: tuple[int, int] = (0, 0)
    found: T | None = None
    unreadable: str = ""


@dataclass(frozen=True)
class Stream(Generic[T]):
    """How a list of pictures is looked at."""

    pictures: Pictures
    backbone: Backbone
    size: int
    """Short side in pixels."""
    batch_size: int
    keep: Callable[[Sequence[Features]], list[T]]
    """What is kept of the features of a batch, one `Features` and one result a picture."""
    result_bytes: float = 0
    """What a result takes for each pixel of its view."""

    def chunks(self, numbers: range) -> Generator[list[Seen[T]], None, None]:
        """What became of the pictures with these numbers, in order, a chunk at a time."""
        pool = ThreadPoolExecutor(torch.get_num_threads(), thread_name_prefix="decode")
        most, length = self._most(), min(2 * self.batch_size, self._most())

        def submit(chunk: range) -> list[Future[View]]:
            return [pool.submit(self.view, i) for i in chunk]

        try:
            rest = numbers[length:]
            ahead = submit(numbers[:length])
            while ahead:
                present, ahead, rest = ahead, submit(rest[:length]), rest[length:]
                started = time.perf_counter()
                seen = self._look(present)
                if time.perf_counter() - started < CHUNK_SECONDS / 2:
                    length = min(2 * length, most)
                yield seen
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def refuse(self, bad: Sequence[tuple[str, str]]) -> NoReturn:
        """Raise the `UserError` for pictures none of which can be read; `bad` has the path and the reason of each."""
        if len(bad) == 1:
            self.view(0)  # raises, with what to do about it
        raise UserError(
            f"none of the {len(bad)} pictures can be read, for example: {bad[0][0]} {bad[0][1]}",
            "name JPEG, PNG or WebP pictures",
        )

    def _most(self) -> int:
        """Pictures a chunk has at most."""
        usual = 1.4 * self.size**2  # pixels: photographs are 4:3 or 3:2
        return max(1, min(CHUNK_PICTURES, int(CHUNK_BYTES / (usual * (3 + self.result_bytes)))))

    def view(self, i: int) -> View:
        """Picture `i` on the patch grid. Raises `ReadError`."""
        data, place = self.pictures.read_bytes(i), self.pictures.place(i)
        spec = self.backbone.spec
        picture = reading.read(data, name=place, at_least=2 * self.size, channels=spec.in_channels)
        shape = (picture.shape[0], picture.shape[1])
        if min(shape) >= 2 * self.size:  # it may have been decoded smaller than it is
            shape = reading.size(data, name=place)
        layout = lay_out(picture.shape[0], picture.shape[1], self.size, spec.side_multiple, name=place)
        return View.of(picture, layout, size=shape)

    def _look(self, decoded: Sequence[Future[View]]) -> list[Seen[T]]:
        seen: list[Seen[T]] = [Seen()] * len(decoded)
        views: dict[int, View] = {}
        for place, future in enumerate(decoded):
            try:
                views[place] = future.result()
            except reading.ReadError as error:
                seen[place] = Seen(unreadable=error.reason)
        for places in self._batches(views):
            results = self.keep(self.backbone.encode_views([views[place] for place in places], self.batch_size))
            for place, result in zip(places, results, strict=True):
                seen[place] = Seen(views[place].size, result)
        return seen

    def _batches(self, views: dict[int, View]) -> Iterator[list[int]]:
        """The views in batches of one shape each."""
        shapes: dict[torch.Size, list[int]] = {}
        for place, view in views.items():
            shapes.setdefault(view.pixels.shape, []).append(place)
        for places in shapes.values():
            for start in range(0, len(places), self.batch_size):
                yield places[start : start + self.batch_size]
