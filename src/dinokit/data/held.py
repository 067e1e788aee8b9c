"""Arrays of a set that are read one by one: as many as there is room for stay in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from numpy.typing import NDArray

Values = TypeVar("Values", bound=NDArray[Any])

ROOM = 2 << 30
"""Bytes."""


class Held(Sequence[Values]):
    """Array `i` is what `read` gives for `numbers[i]`; the first ones that are asked for are kept."""

    def __init__(self, read: Callable[[int], Values], numbers: Sequence[int], room: int = ROOM) -> None:
        self.read, self.numbers, self.room = read, list(numbers), room
        self.kept: dict[int, Values] = {}

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, i: int) -> Values:  # type: ignore[override]
        number = self.numbers[i]
        if number in self.kept:
            return self.kept[number]
        values = self.read(number)
        if values.nbytes <= self.room:
            self.room -= values.nbytes
            self.kept[number] = values
        return values

    def part(self, places: Sequence[int]) -> Held[Values]:
        """Those at these places; no others are kept any more."""
        part = Held(self.read, [self.numbers[i] for i in places], self.room)
        part.kept = {number: self.kept[number] for number in part.numbers if number in self.kept}
        return part
