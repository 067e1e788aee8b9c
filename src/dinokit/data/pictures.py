"""A set of pictures, wherever it lies: what its forms have in common, and views on it.

Folders and shards look the same from above: numbered pictures with a key, compressed bytes and perhaps a
label. The file for opening one by what a person typed is `data/opening.py`.
"""

from collections.abc import Sequence
from typing import Protocol


class Pictures(Protocol):
    """Numbered pictures: 0 <= i < len. Reading is safe from several threads."""

    @property
    def name(self) -> str:
        """What to call the set in messages."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, by label; empty without labels."""

    def __len__(self) -> int:
        """Return the number of pictures."""

    def key(self, i: int) -> str:
        """Return the name of picture `i` inside the set; the same on every machine."""

    def place(self, i: int) -> str:
        """Return where picture `i` lies, seen from the working directory: its path, or SHARD.tar/MEMBER."""

    def read_bytes(self, i: int) -> bytes:
        """Return the compressed bytes of picture `i`; raises `images.read.ReadError`."""

    def label(self, i: int) -> int | None:
        """Return the class of picture `i`, an index into `classes`, or None."""


class Subset:
    """A view on some pictures of a set, in the order of `indices`."""

    def __init__(self, pictures: Pictures, indices: Sequence[int]) -> None:
        self.pictures = pictures
        self.indices = [int(index) for index in indices]
        self.name = pictures.name
        self.classes = pictures.classes

    def __len__(self) -> int:
        return len(self.indices)

    def key(self, i: int) -> str:
        """Return the key of picture `i` of the view."""
        return self.pictures.key(self.indices[i])

    def place(self, i: int) -> str:
        """Return where picture `i` of the view lies."""
        return self.pictures.place(self.indices[i])

    def read_bytes(self, i: int) -> bytes:
        """Return the compressed bytes of picture `i` of the view; raises `ReadError`."""
        return self.pictures.read_bytes(self.indices[i])

    def label(self, i: int) -> int | None:
        """Return the label of picture `i` of the view, or None."""
        return self.pictures.label(self.indices[i])


def subset(pictures: Pictures, indices: Sequence[int]) -> Subset:
    """Return a view on the pictures with these indices, in this order."""
    return Subset(pictures, indices)
