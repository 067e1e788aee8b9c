"""An endless, weighted, shuffled stream over several sets of pictures, addressed by position.

Sample number n is a pure function of (seed, n): a run resumes exactly by one integer, and no shuffle buffer
has to be saved. Every block of samples holds the parts in fixed proportions, shuffled; each part is gone
through in a fresh permutation per epoch, so no picture comes twice before all of its part have come. The
shuffles are sorts by a hash (splitmix64, Steele et al. 2014): the same on every machine and with every
version of NumPy.
"""

from collections.abc import Sequence, Sized
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dinokit.errors import UserError

_BLOCK = 4096
_MASK = (1 << 64) - 1


class Mixture:
    """A stream over `parts` (anything with a length), drawn in the proportions `weights`.

    `weights`: one positive number a part, in any scale; default: the lengths, so that every picture is
    equally likely. Proportions are kept to 1/4096, and exactly so in every block of 4096 samples; a part
    with a positive weight has at least one sample in each. Raises `UserError` naming the weights or an
    empty part.
    """

    def __init__(self, parts: Sequence[Sized], weights: Sequence[float] | None = None, seed: int = 0) -> None:
        self.lengths = [len(part) for part in parts]
        if not parts or min(self.lengths) == 0:
            raise UserError("a data set is empty", "every part of a mixture needs a picture")
        self.weights = _check_weights(self.lengths if weights is None else weights, len(parts))
        self.seed = seed
        self._quotas = _apportion(self.weights, _BLOCK)
        self._unshuffled = np.repeat(np.arange(len(parts)), self._quotas)
        # a few permutations: those at the border of two epochs, for each part
        self._order = lru_cache(maxsize=2 * len(parts))(self._compute_order)
        self._block = lru_cache(maxsize=4)(self._compute_block)

    def draw(self, first: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return `count` samples from number `first` on: (part [count], index within the part [count])."""
        parts = np.empty(count, np.int64)
        indices = np.empty(count, np.int64)
        done = 0
        while done < count:
            number, start = divmod(first + done, _BLOCK)
            stop = min(_BLOCK, start + count - done)
            block_parts, ranks = self._block(number)
            parts[done : done + stop - start] = block_parts[start:stop]
            indices[done : done + stop - start] = number * self._quotas[block_parts[start:stop]] + ranks[start:stop]
            done += stop - start
        for part in np.unique(parts):
            chosen = parts == part
            indices[chosen] = self._shuffle(int(part), indices[chosen])
        return parts, indices

    def _shuffle(self, part: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Turn positions in the endless stream of one part into indices of pictures."""
        epochs, offsets = np.divmod(positions, self.lengths[part])
        result = np.empty_like(positions)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            result[chosen] = self._order(part, int(epoch))[offsets[chosen]]
        return result

    def _compute_order(self, part: int, epoch: int) -> NDArray[np.int64]:
        return permutation(self.lengths[part], self.seed, 1, part, epoch)

    def _compute_block(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the part of each sample of a block, and its rank among the samples of this part."""
        parts = self._unshuffled[permutation(_BLOCK, self.seed, 2, number)]
        ranks = np.empty(_BLOCK, np.int64)
        for part, quota in enumerate(self._quotas):
            ranks[parts == part] = np.arange(quota)
        return parts, ranks


def permutation(length: int, *key: int) -> NDArray[np.int64]:
    """Return a pseudo-random permutation of 0 .. length - 1 that depends on the integers `key` alone."""
    order = np.argsort(_mix(np.arange(length, dtype=np.uint64), _fold(key)), kind="stable")
    return np.asarray(order, dtype=np.int64)


def _fold(key: Sequence[int]) -> int:
    """Hash integers, in order, into one of 64 bits."""
    state = 0
    for value in key:
        state = int(_mix(np.array([value & _MASK], np.uint64), state)[0])
    return state


def _mix(values: NDArray[np.uint64], state: int) -> NDArray[np.uint64]:
    """Hash 64-bit values with the finaliser of splitmix64, as a stream that starts at `state`."""
    mixed = (values + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(state)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _check_weights(weights: Sequence[float], count: int) -> list[float]:
    """Return the weights as shares of 1."""
    given = " ".join(f"{weight:g}" for weight in weights)
    if len(weights) != count:
        raise UserError(f"weights are {given}", f"give {count}, one a data set")
    if not all(0 < weight < float("inf") for weight in weights):
        raise UserError(f"weights are {given}", "give positive numbers")
    if count > _BLOCK // 4:
        raise UserError(f"{count} data sets are mixed", f"at most {_BLOCK // 4} are possible")
    total = float(sum(weights))
    return [weight / total for weight in weights]


def _apportion(shares: Sequence[float], total: int) -> NDArray[np.int64]:
    """Divide `total` seats by largest remainders, at least one each."""
    seats: NDArray[np.int64] = 1 + np.floor(np.array(shares) * (total - len(shares))).astype(np.int64)
    exact = np.array(shares) * total
    for _ in range(total - int(seats.sum())):
        seats[int(np.argmax(exact - seats))] += 1
    return seats
