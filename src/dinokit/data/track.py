"""What long work over many items takes to show how far it is."""

from collections.abc import Iterable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Track(Protocol):
    """Hands on items while it shows how far they are."""

    def __call__(self, items: Iterable[T], total: int, label: str, done: int = 0, /) -> Iterable[T]:
        """Hand on `items`, shown as `label`; there are `total` in all, of which `done` were done before."""


def silent(items: Iterable[T], total: int, label: str, done: int = 0) -> Iterable[T]:
    """A `Track` that shows nothing."""
    return items
