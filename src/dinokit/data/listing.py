"""Finding pictures by path, and keeping account of those that were skipped.

A source is what a person types: a file, a folder tree, a glob, or a brace range as used for shards.
Listings are sorted, so that the same folder always gives the same order; hidden files and folders are left
out. Files with other extensions are noted by their extension, except for text, tables and metadata
(`_COMPANIONS`), which lie beside pictures on purpose.
"""

import glob
import itertools
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from dinokit.errors import UserError

PICTURE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic", ".heif"},
)
SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz")

# fmt: off
_COMPANIONS = frozenset({
    ".txt", ".md", ".html", ".json", ".jsonl", ".csv", ".tsv", ".xml", ".yaml", ".yml",
    ".toml", ".ini", ".log", ".cls", ".npy", ".npz", ".parquet", ".db", ".xmp", ".aae",
})
# fmt: on
_MOST_LISTED = 20

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MAX_EXPANSION = 1_000_000


class SkippedFiles:
    """Collects files that could not be used: a name and a reason each. Safe to fill from several threads."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, str]] = []

    def add(self, name: str, reason: str) -> None:
        """Note that `name` was skipped; `reason` continues the sentence ("is truncated")."""
        self.entries.append((name, reason))

    def add_others(self, paths: Iterable[Path]) -> None:
        """Note files whose extension is no picture's."""
        for path in sorted(paths):
            suffix = path.suffix.lower()
            self.add(path.as_posix(), f"is {suffix or 'without extension'} (not read)")

    def __len__(self) -> int:
        return len(self.entries)

    def summary(self) -> str:
        """Return one line, for example "skipped 3 files: 2 truncated, 1 empty"."""
        if not self.entries:
            return "skipped no files"
        reasons = Counter(reason.removeprefix("is ") for _, reason in self.entries)
        parts = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
        return f"skipped {len(self):,} file{'s' if len(self) > 1 else ''}: {parts}"

    def warn(self, source: str | os.PathLike[str]) -> None:
        """Give the summary as a warning about `source`, if anything was skipped."""
        if self.entries:
            warnings.warn(f"{os.fspath(source)}: {self.summary()}", stacklevel=3)

    def listing(self) -> list[str]:
        """Return one line a file, at most 20 for each reason: its name, as it is, and the reason."""
        seen: Counter[str] = Counter()
        lines = []
        for name, reason in self.entries:
            seen[reason] += 1
            if seen[reason] <= _MOST_LISTED:
                lines.append(f"{name} {reason}")
        more = ((count - _MOST_LISTED, reason.removeprefix("is ")) for reason, count in seen.items())
        return [*lines, *(f"and {count:,} more: {reason}" for count, reason in more if count > 0)]


def no_pictures(name: str, others: Iterable[Path]) -> UserError:
    """The error for a source that has none; `others` are the files that were found instead."""
    skipped = SkippedFiles()
    skipped.add_others(others)
    found = f", {skipped.summary()}" if skipped else ""
    return UserError(f"{name} has no pictures{found}", "name a folder, files or tar shards with JPEG, PNG or WebP")


def find_pictures(source: str | os.PathLike[str], others: set[Path] | None = None) -> list[Path]:
    """Return the sorted picture files of a file, a folder tree, a glob or a brace pattern.

    In folders and globs files count by their extension; a file that is named itself is taken as it is. `others`
    collects the files that are left out. Raises `UserError` naming the source when it does not exist. The list may be
    empty.
    """
    others = set() if others is None else others
    found: list[Path] = []
    for path in resolve(source, others):
        found.extend(_walk(path, others) if path.is_dir() else [path])
    return found


def resolve(source: str | os.PathLike[str], others: set[Path]) -> list[Path]:
    """Return the files and folders that a path, a glob or a brace pattern stands for; all of them exist.

    Raises `UserError` naming what is missing. Matches of a glob are folders, pictures and shards; `others` collects
    the rest.
    """
    if os.path.exists(source):
        return [Path(source)]
    found: list[Path] = []
    left: set[Path] = set()
    for pattern in expand_braces(os.fspath(source)):
        if os.path.exists(pattern):
            found.append(Path(pattern))
        elif glob.has_magic(pattern):
            matches = [Path(match) for match in sorted(glob.glob(pattern, recursive=True))]
            usable = [path for path in matches if path.is_dir() or is_picture(path) or is_shard(path)]
            left.update(path for path in set(matches).difference(usable) if not _is_companion(path.name))
            # "**" also matches the folders above a file; a folder is taken only where no file is
            found.extend([path for path in usable if not path.is_dir()] or usable)
        else:
            raise UserError(f"{pattern} is not found", "check the path")
    if not found:
        raise no_pictures(str(source), left) if left else UserError(f"{source} matches nothing", "check the pattern")
    others.update(left)
    return found


def expand_braces(text: str) -> list[str]:
    """Expand ranges and lists in braces, as a shell does: "b-{08..10}.tar" -> b-08.tar, b-09.tar, b-10.tar.

    Raises `UserError` where that gives more than a million names.
    """
    pieces = _BRACES.split(text)  # literal, content, literal, ...
    choices = [[piece] if number % 2 == 0 else _choices(piece) for number, piece in enumerate(pieces)]
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > _MAX_EXPANSION:
        raise UserError(f"{text} stands for {count} names", f"at most {_MAX_EXPANSION} are allowed")
    return ["".join(parts) for parts in itertools.product(*choices)]


def is_picture(path: str | os.PathLike[str]) -> bool:
    """Say whether the name has the extension of a picture."""
    return os.path.splitext(path)[1].lower() in PICTURE_SUFFIXES


def is_shard(path: str | os.PathLike[str]) -> bool:
    """Say whether the name has the extension of a tar shard."""
    return os.fspath(path).lower().endswith(SHARD_SUFFIXES)


def _is_companion(name: str) -> bool:
    """Say whether a file beside pictures is no loss: hidden, or text, tables and metadata."""
    return name.startswith(".") or os.path.splitext(name)[1].lower() in _COMPANIONS


def _choices(content: str) -> list[str]:
    """Return what the content of one pair of braces stands for."""
    match = _RANGE.fullmatch(content)
    if match is None:
        return content.split(",") if "," in content else ["{" + content + "}"]
    first, last = int(match[1]), int(match[2])
    if abs(last - first) >= _MAX_EXPANSION:
        raise UserError(f"{{{content}}} is too long a range", f"at most {_MAX_EXPANSION} names are allowed")
    padded = match[1].startswith("0") or match[2].startswith("0")
    width = max(len(match[1]), len(match[2])) if padded else 0
    step = 1 if last >= first else -1
    return [str(number).zfill(width) for number in range(first, last + step, step)]


def _walk(root: Path, others: set[Path]) -> Iterator[Path]:
    """Yield the pictures below `root`, sorted, and collect `others`; links to folders are followed once."""
    seen: set[str] = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and is_picture(name):
                yield Path(folder) / name
            elif not _is_companion(name):
                others.add(Path(folder) / name)
