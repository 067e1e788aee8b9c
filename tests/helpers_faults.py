"""A process that dies (kill -9, power) at any moment, within the test's own."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


class Killed(BaseException):
    """Nothing is written any more."""


@contextmanager
def killed_at(moment: int) -> Iterator[list[int]]:
    """Changes of folders go through until the one of this number; it and all later ones raise `Killed`.

    Yields a list whose one number is that of the changes that are still allowed.
    """
    left = [moment]
    with pytest.MonkeyPatch.context() as patch:
        for name in ("replace", "unlink", "rmdir", "fsync"):
            patch.setattr(os, name, _counted(getattr(os, name), left))
        yield left


def _counted(change: Any, left: list[int]) -> Any:
    def work(*arguments: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return change(*arguments, **options)

    return work


def moments(changes: int, number: int = 20) -> list[int]:
    """`number` moments spread over so many changes."""
    assert changes >= number
    return [changes * i // number for i in range(number)]
