"""Arrays that stay in memory as long as there is room, and are read anew beyond."""

import numpy as np
from numpy.typing import NDArray

from dinokit.data.held import Held

Numbers = NDArray[np.uint8]


class Reader:
    """Makes an array of 100 bytes for a number, and remembers for which."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, number: int) -> Numbers:
        self.asked.append(number)
        return np.full(100, number, np.uint8)


def test_what_there_is_room_for_is_read_once() -> None:
    reader = Reader()
    held = Held(reader, range(4), room=250)
    for _ in range(2):
        assert [int(values[0]) for values in held] == [0, 1, 2, 3]
    assert reader.asked == [0, 1, 2, 3, 2, 3]


def test_a_part_keeps_what_was_kept() -> None:
    reader = Reader()
    held = Held(reader, range(4), room=250)
    list(held)
    part = held.part([3, 1])
    assert [int(values[0]) for values in part] == [3, 1]
    assert reader.asked == [0, 1, 2, 3, 3]
    assert len(part) == 2
