"""From what a person typed to a set of pictures: folder, shards, pattern or single files.

The kind is decided by what lies there, not by a prefix or an option; what cannot be decided is an error that
says how to be more precise.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from dinokit.data.folder import Files, Folder
from dinokit.data.listing import SkippedFiles, find_pictures, is_shard, resolve
from dinokit.data.pictures import Pictures
from dinokit.data.shards import Shards
from dinokit.errors import UserError

DataSource = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""A path, a glob, a brace pattern, or several of these that together form one set."""


def open_pictures(source: DataSource, skipped: SkippedFiles | None = None) -> Pictures:
    """Open a folder of pictures (labels from its subfolders), a folder of shards, shards, files or a pattern.

    `skipped` collects members of shards that cannot be used and files that are no pictures. Raises `UserError`
    naming the source when something is missing, there is no picture, or pictures and shards are mixed.
    """
    sources = [source] if isinstance(source, (str, os.PathLike)) else list(source)
    name = ", ".join(str(part) for part in sources)
    if not all(os.fspath(part) for part in sources) or not sources:
        raise UserError("no pictures were named", "name a folder, files or tar shards")
    skipped = SkippedFiles() if skipped is None else skipped
    others: set[Path] = set()
    pictures = _open(sources, name, skipped, others)
    skipped.add_others(others)
    return pictures


def _open(sources: Sequence[str | os.PathLike[str]], name: str, skipped: SkippedFiles, others: set[Path]) -> Pictures:
    """Open `sources` as one set, called `name`; where they overlap, a picture is in it once."""
    paths = [path for part in sources for path in resolve(part, others)]
    if len(paths) == 1 and paths[0].is_dir():
        return _open_folder(paths[0], skipped, others)
    shards = _once(shard for path in paths for shard in ([path] if is_shard(path) else _shards_in(path)))
    files = _once(file for path in paths if not is_shard(path) for file in find_pictures(path, others))
    if shards and files:
        raise UserError(f"{name} mixes pictures and tar shards", "give one kind at a time")
    return Shards(shards, name, skipped) if shards else Files(files, name, others)


def _open_folder(path: Path, skipped: SkippedFiles, others: set[Path]) -> Pictures:
    """Open a folder of shards, or a tree of pictures."""
    shards = _shards_in(path)
    if not shards:
        return Folder(path, others)
    if find_pictures(path):
        raise UserError(f"{path} has both pictures and tar shards", f"name one kind, such as '{path}/*.tar'")
    return Shards(shards, str(path), skipped)


def _once(paths: Iterable[Path]) -> list[Path]:
    return list(dict.fromkeys(paths))


def _shards_in(path: Path) -> list[Path]:
    """Return the shards directly inside a folder, sorted; none for a file."""
    if not path.is_dir():
        return []
    return sorted(entry for entry in path.iterdir() if is_shard(entry) and not entry.name.startswith("."))
