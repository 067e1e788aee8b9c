"""One picture on all cores of a processor: each thread works on its own tokens, and all see the keys of all.

Threads meet once a block, when the keys and values of every token are there. Between two meetings a core works on
rows that stay in its cache, and waits for no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Barrier, BrokenBarrierError

import torch
from torch import Tensor

Exchange = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Keys and values [B, heads, t, d] of a thread's own tokens -> those that its queries see, [B, heads, T, d]."""


def only_own(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The exchange of a thread whose pictures are its own."""
    return keys, values


@dataclass
class SharedKeys:
    """Keys and values of all tokens of a batch. Two pairs take turns from block to block, so that a thread that is
    ahead does not overwrite what another still reads."""

    pairs: Tensor
    """[2, 2, B, heads, T, d]: turn, keys and values; tokens beyond the last are padding."""
    meeting: Barrier
    failures: list[BaseException] = field(default_factory=list)

    @staticmethod
    def make(shape: tuple[int, int, int, int], parties: int, dtype: torch.dtype) -> SharedKeys:
        """For `parties` threads and keys of shape [B, heads, T, d]."""
        return SharedKeys(torch.zeros(2, 2, *shape, dtype=dtype), Barrier(parties))

    @contextmanager
    def meeting_kept(self) -> Iterator[None]:
        """If this thread fails, those that wait for it fail too, of the same."""
        try:
            yield
        except BrokenBarrierError:
            raise self.failures[0] from None
        except BaseException as problem:
            self.failures.append(problem)
            self.meeting.abort()
            raise

    def exchange(self, first: int) -> Exchange:
        """The exchange of the thread whose tokens begin with number `first`."""
        return _Exchange(self, first)


@dataclass
class _Exchange:
    shared: SharedKeys
    first: int
    turn: int = field(default=0)

    def __call__(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        pair = self.shared.pairs[self.turn % 2]
        own = slice(self.first, self.first + keys.shape[2])
        pair[0][:, :, own], pair[1][:, :, own] = keys, values
        self.turn += 1
        self.shared.meeting.wait()
        return pair[0], pair[1]
