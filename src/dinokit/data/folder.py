"""Pictures that lie as files: a folder tree, or any list of paths.

The first folder level below the root gives the labels (`root/cat/1.jpg`), as everywhere in this field,
provided that every picture is in such a folder; otherwise the set has no labels.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from dinokit.data.listing import find_pictures, no_pictures
from dinokit.images.read import read_file


class Files:
    """Picture files given by their paths, without labels; a set of `Pictures`.

    Raises `UserError` when there are none, which says what `others` were found instead.
    """

    def __init__(self, paths: Sequence[Path], name: str, others: Iterable[Path] = ()) -> None:
        if not paths:
            raise no_pictures(name, others)
        self.paths = list(paths)
        self.name = name
        self.classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def key(self, i: int) -> str:
        """Return the path of picture `i` as it was given."""
        return self.paths[i].as_posix()

    def place(self, i: int) -> str:
        """Return the path that opens picture `i` from the working directory, with forward slashes."""
        return self.paths[i].as_posix()

    def read_bytes(self, i: int) -> bytes:
        """Return the bytes of file `i`; raises `ReadError`."""
        return read_file(self.paths[i])

    def label(self, i: int) -> int | None:
        """Return None: lone files have no labels."""
        return None


class Folder(Files):
    """A tree of pictures; labels from its first folder level when every picture is in a subfolder.

    `others` collects its other files. Raises `UserError` naming the folder when it is missing or has no pictures.
    """

    def __init__(self, path: str | os.PathLike[str], others: set[Path] | None = None) -> None:
        self.root = Path(path)
        others = set() if others is None else others
        super().__init__(find_pictures(self.root, others), str(path), others)
        self._relative = [file.relative_to(self.root) for file in self.paths]
        if all(len(file.parts) > 1 for file in self._relative):
            self.classes = tuple(sorted({file.parts[0] for file in self._relative}))
        self._numbers = {name: number for number, name in enumerate(self.classes)}

    def key(self, i: int) -> str:
        """Return the path of picture `i` below the root, with forward slashes."""
        return self._relative[i].as_posix()

    def label(self, i: int) -> int | None:
        """Return the number of the first-level folder of picture `i`, or None."""
        return self._numbers[self._relative[i].parts[0]] if self.classes else None
