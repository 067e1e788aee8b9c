"""The pictures of a batch side by side on a processor's cores, each piece on a thread of its own.

A piece stays in the cache of its core from block to block, and no core waits for the others after every product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Lock
from typing import TypeVar

import torch
from torch import Tensor

PIECE_TOKENS = 1024
"""Tokens of a piece, about: few enough for a core's cache, enough for its matrix products."""

PART_TOKENS = 128
"""Tokens of the part of a picture that is worth a thread, at least."""

_all_at_once, _making = Lock(), Lock()
_pools: dict[int, ThreadPoolExecutor] = {}

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def split_batch(pictures: Tensor, tokens: int) -> tuple[Tensor, ...]:
    """Pieces of a batch [B, ...] of `tokens` tokens a picture; the whole where there is not enough for all threads."""
    threads, batch = torch.get_num_threads(), len(pictures)
    if pictures.device.type != "cpu" or threads == 1 or batch < threads or (batch % threads and batch < 4 * threads):
        return (pictures,)
    rounds = max(round(batch * tokens / (threads * PIECE_TOKENS)), 1)
    return pictures.tensor_split(min(threads * rounds, batch))


def split_tokens(tokens: Tensor) -> list[slice]:
    """A part of the tokens [B, T, D] for each thread; one part where there are too few for all of them."""
    threads, (batch, count, _) = torch.get_num_threads(), tokens.shape
    if tokens.device.type != "cpu" or batch * count < threads * PART_TOKENS:
        return [slice(0, count)]
    size = -(-count // threads)
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def run_side_by_side(work: Callable[[Piece], Result], pieces: Sequence[Piece]) -> list[Result]:
    """`work` on every piece, in order. Errors are those of `work`."""
    if len(pieces) == 1:
        return [work(pieces[0])]
    return list(_workers(torch.get_num_threads()).map(work, pieces))


def run_all_at_once(work: Callable[[Piece], Result], pieces: Sequence[Piece]) -> list[Result]:
    """The same for pieces that wait for each other: all run, whoever else computes. At most one a thread."""
    with _all_at_once:
        return run_side_by_side(work, pieces)


def alone(work: Callable[[], Result]) -> Result:
    """`work` on a thread that computes alone; the number of threads of the others stays as it is."""
    return _workers(torch.get_num_threads()).submit(work).result()


def _workers(threads: int) -> ThreadPoolExecutor:
    """One thread a core, each of which computes alone; made at the first use."""
    with _making:
        if threads not in _pools:
            _pools[threads] = _make_workers(threads)
    return _pools[threads]


def _make_workers(threads: int) -> ThreadPoolExecutor:
    started = Barrier(threads + 1)

    def start() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # the first look settles it; it would take up the number of other threads later
        started.wait()

    pool = ThreadPoolExecutor(threads, "dinokit", start)
    for _ in range(threads):
        pool.submit(lambda: None)
    started.wait()
    torch.set_num_threads(threads)  # workers set it for threads that are yet to come, too
    return pool
