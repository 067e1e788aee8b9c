"""Sizes of matrix products, kept few.

oneDNN keeps about a megabyte of compiled code for each size of each product in each thread. The first sizes of a
process are taken as they are, so that pictures of one size cost nothing extra; others are rounded up to one of
sixteen sizes an octave, at most 6 % more, so that pictures of any number of sizes take no more memory.
"""

from __future__ import annotations

MULTIPLE = 16
EXACT = 16


class FewSizes:
    """Remembers which sizes are taken as they are; a size is treated alike for as long as the process lives."""

    def __init__(self) -> None:
        self._exact: set[int] = set()

    def fit(self, size: int) -> int:
        """The size to use in place of `size`: itself, or the next multiple of 16 or of a sixteenth of its octave."""
        if len(self._exact) < EXACT:
            self._exact.add(size)
        if size in self._exact:
            return size
        step = max(MULTIPLE, (1 << size.bit_length()) >> 5)
        return -(-size // step) * step
