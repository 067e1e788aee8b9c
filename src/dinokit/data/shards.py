"""WebDataset shards: tar files with members KEY.jpg, .jpeg, .png or .webp, and KEY.cls with the label.

A plain tar is indexed once and then read by position, so shards serve as random access without unpacking; a
gzipped one is read through once and its compressed pictures are kept in memory. Archives may be hostile:
nothing is written to disk, only regular members count, sizes are bounded, and what is complete in a cut
archive is kept. Convention: https://github.com/webdataset/webdataset (the key ends at the first dot of the
base name).
"""

import os
import posixpath
from collections.abc import Collection, Sequence
from pathlib import Path

from dinokit.data.class_names import read_class_names
from dinokit.data.listing import SkippedFiles
from dinokit.data.tar import Member, TarIndex, index_tar
from dinokit.errors import UserError

MAX_IN_MEMORY = 2 << 30
"""The most bytes of compressed pictures that are kept from gzipped shards."""
MAX_CLASSES = 1_000_000

_EXTENSIONS = ("jpg", "jpeg", "png", "webp")


class Shards:
    """The pictures of tar shards, in the order of the shards and their members; a set of `Pictures`.

    `classes` come from `classes.txt` beside the shards (a line a class, its last tab-separated column the
    name) or are the labels as text. Unusable members and shards are noted in `skipped`. Raises `UserError`
    naming the shard when it is missing or too large to keep in memory, and when no shard has a picture. beside:
    endings of members that belong to the picture of their key, such as mask.png: its companion.
    """

    def __init__(
        self,
        paths: Sequence[str | os.PathLike[str]],
        name: str = "",
        skipped: SkippedFiles | None = None,
        beside: Collection[str] = (),
    ) -> None:
        self.paths = [Path(path) for path in paths]
        self.name = name or ", ".join(str(path) for path in self.paths)
        self.skipped = SkippedFiles() if skipped is None else skipped
        self._keys: list[str] = []
        self._members: list[tuple[int, Member]] = []
        self._labels: list[int] = []
        self._beside = beside
        self._companions: list[Member | None] = []
        broken: list[str] = []
        in_memory = 0
        for number, path in enumerate(self.paths):
            index = index_tar(path, self._wanted, MAX_IN_MEMORY - in_memory)
            in_memory += index.bytes_in_memory
            self._add(number, index)
            broken.extend(f"{path} {reason}" for name, reason in index.problems if not name)
        if not self._keys and broken:
            more = f", and {len(broken) - 1} more shards are broken" if len(broken) > 1 else ""
            raise UserError(f"{broken[0]}{more}", "give a whole .tar or .tar.gz of pictures")
        if not self._keys:
            raise UserError(f"{self.name} has no pictures", "members must be KEY.jpg, .jpeg, .png or .webp")
        self.classes = self._name_classes()

    def __len__(self) -> int:
        return len(self._keys)

    def key(self, i: int) -> str:
        """Return the key of picture `i`: its member name up to the first dot of the base name."""
        return self._keys[i]

    def label(self, i: int) -> int | None:
        """Return the number in KEY.cls of picture `i`, or None."""
        return None if self._labels[i] < 0 else self._labels[i]

    def place(self, i: int) -> str:
        """Return where picture `i` lies: SHARD.tar/MEMBER, the shard as it was given."""
        number, member = self._members[i]
        return f"{self.paths[number].as_posix()}/{member.name}"

    def read_bytes(self, i: int) -> bytes:
        """Return the compressed bytes of picture `i`; raises `ReadError` when the shard has changed."""
        number, member = self._members[i]
        return member.read(self.paths[number])

    def has_companion(self, i: int) -> bool:
        """Whether picture `i` has one."""
        return self._companions[i] is not None

    def companion_place(self, i: int) -> str:
        """Where the companion of picture `i` lies: SHARD.tar/MEMBER."""
        companion = self._companions[i]
        assert companion is not None
        return f"{self.paths[self._members[i][0]].as_posix()}/{companion.name}"

    def read_companion(self, i: int) -> bytes:
        """The bytes of the companion of picture `i`; raises `ReadError` when the shard has changed."""
        companion = self._companions[i]
        assert companion is not None
        return companion.read(self.paths[self._members[i][0]])

    def _wanted(self, name: str) -> bool:
        """Say whether a member is a picture, a label or a companion; hidden files have an empty key."""
        key, extension = split_key(name)
        return bool(posixpath.basename(key)) and (
            extension == "cls" or extension in _EXTENSIONS or extension in self._beside
        )

    def _add(self, number: int, index: TarIndex) -> None:
        """Take in the pictures and labels of one indexed shard."""
        path = self.paths[number]
        for name, reason in index.problems:
            self.skipped.add(f"{path}/{name}" if name else str(path), reason)
        labels: dict[str, int] = {}
        pictures: dict[str, Member] = {}
        companions: dict[str, Member] = {}
        for member in index.members:
            key, extension = split_key(member.name)
            if extension == "cls":
                labels[key] = self._parse_label(member, path)
            elif extension in self._beside:
                companions[key] = member
            elif key in pictures:
                self.skipped.add(f"{path}/{member.name}", "has the key of an earlier picture")
            else:
                pictures[key] = member
        for key, member in pictures.items():
            self._keys.append(key)
            self._members.append((number, member))
            self._labels.append(labels.get(key, -1))
            self._companions.append(companions.get(key))

    def _parse_label(self, member: Member, path: Path) -> int:
        """Return the label in a .cls member, -1 (and a note) where there is none."""
        text = member.read(path) if member.size <= 64 else b""
        try:
            label = int(text)
        except ValueError:
            label = -1
        if 0 <= label < MAX_CLASSES:
            return label
        self.skipped.add(f"{path}/{member.name}", "is not a class number")
        return -1

    def _name_classes(self) -> tuple[str, ...]:
        """Return the class names: from `classes.txt`, then numbers for labels beyond it."""
        files = {path.parent / "classes.txt" for path in self.paths}
        found = {read_class_names(file) for file in files if file.is_file()}
        if len(found) > 1:
            names = ", ".join(sorted(str(file) for file in files))
            raise UserError(f"the class names differ between {names}", "open these shards one folder at a time")
        named = [name for names in found for name in names]
        count = max(self._labels) + 1
        if count == 0:
            return ()
        return tuple(named + [str(label) for label in range(len(named), count)])


def split_key(name: str) -> tuple[str, str]:
    """Split a member name into its key (with the folder) and its extension in lower case, without the dot."""
    folder, base = posixpath.split(posixpath.normpath(name))
    key, _, extension = base.partition(".")
    return posixpath.join(folder, key), extension.lower()
