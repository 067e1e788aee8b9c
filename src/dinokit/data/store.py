"""Small square pictures for training: decoded once and kept in memory, or decoded anew whenever asked for.

Every picture is squashed to S × S (antialiased) and its aspect ratio kept beside it: one dense uint8 tensor
needs no padding and no lists, gathers at memory speed, moves to a GPU in one copy, and the crops undo the
squash while they resample anyway. Threads are enough: JPEG decoding and torch's resize both release the
interpreter lock.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dinokit.data.listing import SkippedFiles
from dinokit.data.pictures import Pictures
from dinokit.errors import UserError
from dinokit.images.geometry import resize, to_tensor
from dinokit.images.read import ReadError, read

Indices = Sequence[int] | NDArray[np.int64] | Tensor
Progress = Callable[[int, int], None]
"""Called with (pictures done, pictures in all)."""

T = TypeVar("T")
_CHUNK = 32


class Squares(Protocol):
    """Square pictures by number: in memory (`SquareStore`) or decoded anew (`StreamedSquares`)."""

    @property
    def labels(self) -> Tensor:
        """The classes, int64 [N], -1 = none."""

    def __len__(self) -> int:
        """Return the number of pictures N."""

    def get(self, indices: Indices) -> tuple[Tensor, Tensor]:
        """Return uint8 [B, 3, S, S] and the original width / height, float32 [B]."""


@dataclass(frozen=True)
class SquareStore:
    """Decoded pictures in memory."""

    pictures: Tensor
    """uint8 [N, 3, S, S]: RGB, each squashed to a square."""
    aspects: Tensor
    """float32 [N]: width / height of the upright original, to 0.5 %."""
    labels: Tensor
    """int64 [N]: classes, -1 = none."""
    keys: tuple[str, ...]
    """N names, as the set of pictures gave them."""
    classes: tuple[str, ...] = ()
    """The names of the classes, by label."""

    def __len__(self) -> int:
        return len(self.keys)

    def get(self, indices: Indices) -> tuple[Tensor, Tensor]:
        """Return copies of pictures: uint8 [B, 3, S, S], and width / height, float32 [B]."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        return self.pictures[chosen], self.aspects[chosen]


def bytes_needed(count: int, side: int) -> int:
    """Return how much memory the pixels of `count` pictures of `side` × `side` take."""
    return count * 3 * side * side


def decode_square(data: bytes, side: int, name: str = "", channels: int = 3) -> tuple[Tensor, float]:
    """Decode a picture file and squash it: uint8 [C, side, side] and width / height; raises `ReadError`.

    Large JPEGs are decoded at a fraction of their size, but never below twice the side.
    """
    picture = read(data, name, at_least=2 * side, channels=channels)
    height, width = picture.shape[:2]
    return resize(to_tensor(picture), (side, side))[0], width / height


def decode_all(
    pictures: Pictures,
    side: int,
    threads: int | None = None,
    progress: Progress | None = None,
    skipped: SkippedFiles | None = None,
    channels: int = 3,
) -> SquareStore:
    """Decode a whole set into memory, with `threads` threads (default: one a core).

    Unreadable pictures are left out and noted in `skipped`, in the order of the set. `progress` is called
    from the calling thread. Raises `UserError` when `side` is not positive or no picture can be read.
    """
    _check_side(side)
    skipped = SkippedFiles() if skipped is None else skipped
    store = torch.empty(len(pictures), channels, side, side, dtype=torch.uint8)
    aspects = torch.empty(len(pictures))
    decode = partial(_decode_into, store, aspects, pictures)
    bad: dict[int, str] = {}
    chunks = [range(i, min(i + _CHUNK, len(pictures))) for i in range(0, len(pictures), _CHUNK)]
    for chunk, problems in zip(chunks, _map(decode, chunks, threads), strict=True):
        for i, reason in problems:
            bad[i] = reason
            skipped.add(pictures.key(i), reason)
        if progress is not None:
            progress(chunk.stop, len(pictures))
    if len(bad) == len(pictures):
        raise _none_readable(pictures, bad.get(0))
    good = [i for i in range(len(pictures)) if i not in bad]
    return SquareStore(
        pictures=_compact(store, good),
        aspects=_compact(aspects, good),
        labels=_labels(pictures, good),
        keys=tuple(pictures.key(i) for i in good),
        classes=tuple(pictures.classes),
    )


def _decode_into(store: Tensor, aspects: Tensor, pictures: Pictures, chunk: range) -> list[tuple[int, str]]:
    """Decode some pictures into their rows; returns (number, reason) of those that cannot be read."""
    problems = []
    for i in chunk:
        try:
            store[i], aspects[i] = decode_square(pictures.read_bytes(i), store.shape[-1], channels=store.shape[1])
        except ReadError as error:
            problems.append((i, error.reason))
    return problems


class StreamedSquares:
    """Pictures decoded anew at every `get`, or ahead of it by `prefetch`, for sets too large for memory.

    An unreadable picture is replaced by another one of the set, always the same one, and noted in `skipped`
    once. Raises `UserError` when none is readable.
    """

    def __init__(
        self, pictures: Pictures, side: int, threads: int | None = None, skipped: SkippedFiles | None = None
    ) -> None:
        _check_side(side)
        self.pictures = pictures
        self.side = side
        self.skipped = SkippedFiles() if skipped is None else skipped
        self.labels = _labels(pictures, range(len(pictures)))
        """int64 [N]; -1 without one, or once the picture was found unreadable."""
        self._bad: dict[int, str] = {}
        self._lock = Lock()
        self._decode(0)
        self._pool = ThreadPoolExecutor(threads or os.cpu_count() or 1, thread_name_prefix="decode")
        self._ahead: dict[int, Future[tuple[Tensor, float]]] = {}

    def __len__(self) -> int:
        return len(self.pictures)

    def get(self, indices: Indices) -> tuple[Tensor, Tensor]:
        """Return uint8 [B, 3, S, S] and width / height, float32 [B]; `UserError` if none is readable."""
        self.prefetch(indices)  # what is not under way yet
        jobs, self._ahead = self._ahead, {}
        try:
            results = [jobs[i].result() for i in _numbers(indices)]
        finally:
            for job in jobs.values():
                job.cancel()  # on Ctrl-C the program's end waits for no more of them
        aspects = torch.tensor([aspect for _, aspect in results], dtype=torch.float32)
        return torch.stack([square for square, _ in results]), aspects

    def prefetch(self, indices: Indices) -> None:
        """Decode in the background what the next `get` will ask for, in place of what was said before."""
        before = self._ahead
        self._ahead = {i: before.get(i) or self._pool.submit(self._decode, i) for i in _numbers(indices)}

    def close(self) -> None:
        """Stop the threads; `get` is refused afterwards."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _decode(self, i: int) -> tuple[Tensor, float]:
        """Decode picture `i`, or the first readable one of those that stand in for it."""
        for candidate in _stand_ins(i, len(self)):
            if candidate in self._bad:
                continue
            try:
                square, aspect = decode_square(self.pictures.read_bytes(candidate), self.side)
                return square.contiguous(), aspect
            except ReadError as error:
                self._note(candidate, error.reason)
        raise _none_readable(self.pictures, self._bad.get(0))

    def _note(self, i: int, reason: str) -> None:
        """Note an unreadable picture, once even where several threads meet it at the same time."""
        with self._lock:
            if i not in self._bad:
                self._bad[i] = reason
                self.labels[i] = -1  # another picture stands in for it
                self.skipped.add(self.pictures.key(i), reason)


def gather(parts: Sequence[Squares], numbers: NDArray[np.int64], indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Return the pictures that `Mixture.draw` named: uint8 [B, 3, S, S] and width / height, float32 [B]."""
    if len(parts) == 1:
        return parts[0].get(indices)
    order: list[NDArray[np.int64]] = []
    found: list[tuple[Tensor, Tensor]] = []
    for number, part in enumerate(parts):
        places = np.flatnonzero(numbers == number)
        if places.size:
            order.append(places)
            found.append(part.get(indices[places]))
    back = torch.from_numpy(np.argsort(np.concatenate(order)))
    return torch.cat([pixels for pixels, _ in found])[back], torch.cat([aspects for _, aspects in found])[back]


def _numbers(indices: Indices) -> list[int]:
    numbers: list[int] = torch.as_tensor(indices, dtype=torch.int64).tolist()
    return numbers


def _none_readable(pictures: Pictures, first: str | None) -> UserError:
    """The error; `first` is the reason of picture 0."""
    example = f", for example: {pictures.key(0)} {first}" if first else ""
    return UserError(f"{pictures.name} has no readable picture{example}", "name JPEG, PNG or WebP pictures")


def _check_side(side: int) -> None:
    if side < 1:
        raise UserError(f"side is {side}", "give a number of pixels above 0")


def _map(work: Callable[[range], T], chunks: Sequence[range], threads: int | None) -> Iterator[T]:
    """Yield the results in order; stops promptly when the consumer does, for example on Ctrl-C."""
    with ThreadPoolExecutor(threads or os.cpu_count() or 1, thread_name_prefix="decode") as pool:
        try:
            yield from pool.map(work, chunks)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _compact(rows: Tensor, good: Sequence[int]) -> Tensor:
    """Move the good rows together in place, so that a large tensor is never held twice."""
    for place, i in enumerate(good):
        if place != i:
            rows[place] = rows[i]
    return rows[: len(good)]


def _labels(pictures: Pictures, indices: Sequence[int]) -> Tensor:
    labels = [pictures.label(i) for i in indices]
    return torch.tensor([-1 if label is None else label for label in labels], dtype=torch.int64)


def _stand_ins(i: int, count: int) -> Iterator[int]:
    """Yield `i`, then numbers spread over the set, the same for the same `i`; every one comes up."""
    step = max(1, int(count * 0.6180339887))
    while np.gcd(step, count) != 1:
        step += 1
    for k in range(count):
        yield (i + k * step) % count
