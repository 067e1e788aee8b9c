"""What a search found, and groups of near-duplicates: sheets for people, JSON and CSV for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinokit.checkpoints.names import printable
from dinokit.checkpoints.save import write_atomically
from dinokit.data.reopen import reopen
from dinokit.images.draw import Pixels, sheet
from dinokit.images.read import ReadError, read
from dinokit.tasks.results import check_name, save_picture, write_csv

__all__ = ["Hits", "PictureGroups"]

ENDINGS = (".json", ".csv", ".jpg", ".jpeg", ".png")
SHOWN_SEARCHES = 99
"""Searches that a sheet shows at most; fewer where they are tall."""
_SHOWN = 24
"""Groups that a sheet shows at most."""
_SHOWN_HITS = 99
"""Hits of one search that a sheet shows at most."""
_TALLEST = 20_000
"""Pixels of a sheet of several searches."""
_GREY = 225


@dataclass(frozen=True)
class Hits:
    """The k pictures most like a query, best first."""

    query: str
    """Its name."""
    picture: Pixels
    """The query itself, reduced: uint8 [H, W, 3]"""
    paths: tuple[str, ...]
    """As the collection has them."""
    similarity: NDArray[np.float32]
    """[k] cosines of the vectors"""
    sizes: NDArray[np.int32]
    """[k, 2] width and height of the pictures in pixels"""
    patch_similarity: NDArray[np.float32]
    """[k] share of the patches that match; not a number for pictures that were not compared so"""
    folder: Path
    """Where the collection lies: paths are tried from here, too."""

    def __len__(self) -> int:
        return len(self.paths)

    def draw(self, columns: int = 5, side: int = 224) -> Pixels:
        """A sheet uint8 [H, W, 3]: the query, then the first 99 hits with their similarity; grey for missing files."""
        captions = [
            f"{Path(path).name}\n{cosine:.3f}" + ("" if math.isnan(match) else f", patches {match:.3f}")
            for path, cosine, match in zip(self.paths, self.similarity, self.patch_similarity, strict=True)
        ][:_SHOWN_HITS]
        tiles = [self.picture, *(_tile(path, self.folder, side) for path in self.paths[:_SHOWN_HITS])]
        return sheet(tiles, [f"{Path(self.query).name}\nquery", *captions], columns, side)

    def save(self, path: str | Path) -> None:
        """Write .json, .csv, or the sheet as .jpg or .png. Raises `UserError` for other names."""
        save_hits(path, [self.to_row()], [self])

    def to_row(self) -> dict[str, Any]:
        """What the JSON file holds."""
        return {"query": printable(self.query), "hits": [self._entry(i) for i in range(len(self))]}

    def describe(self) -> str:
        """For the terminal: the query, then a line for each hit."""
        found = zip(self.similarity, self.paths, strict=True)
        return "\n".join([printable(self.query), *(f"  {cosine:.3f}  {printable(path)}" for cosine, path in found)])

    def _entry(self, i: int) -> dict[str, Any]:
        width, height = (int(side) for side in self.sizes[i])
        entry = {"path": self.paths[i], "similarity": _rounded(self.similarity[i]), "width": width, "height": height}
        match = {} if math.isnan(self.patch_similarity[i]) else {"patches": _rounded(self.patch_similarity[i])}
        return entry | match


@dataclass(frozen=True)
class PictureGroups:
    """Groups of near-duplicates; in each, the picture with most pixels comes first."""

    groups: tuple[tuple[str, ...], ...]
    """Paths, two in a group or more."""
    threshold: float
    """The similarity from which on two pictures are linked."""
    folder: Path
    """Where the collection lies."""

    @property
    def extra(self) -> tuple[str, ...]:
        """All but the first of each group."""
        return tuple(path for group in self.groups for path in group[1:])

    def draw(self, columns: int = 6, side: int = 160) -> Pixels:
        """A sheet uint8 [H, W, 3] of the first groups, each on a line of its own, as far as `columns` go."""
        blank = np.full((1, 1, 3), 255, np.uint8)
        tiles: list[Pixels] = []
        captions: list[str] = []
        for number, group in enumerate(self.groups[:_SHOWN], 1):
            shown = group[:columns]
            tiles += [_tile(path, self.folder, side) for path in shown] + [blank] * (columns - len(shown))
            captions += [f"{number}: {Path(path).name}" for path in shown] + [""] * (columns - len(shown))
        return sheet(tiles or [blank], captions or ["no near-duplicates"], columns, side)

    def save(self, path: str | Path) -> None:
        """Write .json, .csv (group, path), or the sheet as .jpg or .png. Raises `UserError` for other names."""
        rows = [[str(number), name] for number, group in enumerate(self.groups, 1) for name in group]
        _save(path, self.draw, self.to_row(), [["group", "path"], *rows])

    def to_row(self) -> dict[str, Any]:
        """What the JSON file holds."""
        return {"threshold": self.threshold, "groups": [list(group) for group in self.groups]}

    def describe(self, removed: int = 0) -> str:
        """For the terminal: a line for each picture, the first of a group at the margin, and how many there are."""
        named = [("  " if n else "") + printable(path) for group in self.groups for n, path in enumerate(group)]
        said = f"{len(self.groups)} groups, {len(self.extra)} pictures too many"
        return "\n".join([*named, f"{said}, {removed} removed" if removed else said])


def save_hits(path: str | Path, rows: Sequence[dict[str, Any]], shown: Sequence[Hits]) -> None:
    """Write what several searches found into one file: their `rows` (`Hits.to_row`), or a sheet of those `shown`.

    shown: the first of them; a sheet has as many as can be looked at. Raises `UserError` as `Hits.save`.
    """
    names = ["path", "similarity", "width", "height", "patches"]
    entries = [(row["query"], entry) for row in rows for entry in row["hits"]]
    table = [[query, *(str(entry.get(name, "")) for name in names)] for query, entry in entries]
    _save(path, lambda: _below(shown, len(rows)), {"searches": list(rows)}, [["query", *names], *table])


def _save(path: str | Path, draw: Any, content: dict[str, Any], table: list[list[str]]) -> None:
    path = Path(path)
    check_name(path, ENDINGS)
    if path.suffix.lower() == ".json":
        write_atomically(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "replace"))
    elif path.suffix.lower() == ".csv":
        write_csv(path, table[0], table[1:])
    else:
        save_picture(path, draw())


def _tile(path: str, folder: Path, side: int) -> Pixels:
    try:
        return read(reopen(path, folder), path, at_least=2 * side)
    except ReadError:
        return np.full((side, side, 3), _GREY, np.uint8)


def _below(shown: Sequence[Hits], count: int) -> Pixels:
    """The sheets of the first of `count` searches one below the other, and how many more there are."""
    pages, height = list[Pixels](), 0
    for one in shown:
        pages.append(one.draw())
        height += len(pages[-1])
        if height > _TALLEST:
            break
    if len(pages) < count:
        more = f"and {count - len(pages)} more searches, which JSON and CSV have room for"
        pages.append(sheet([np.full((1, 1, 3), 255, np.uint8)], [more], 1, pages[0].shape[1] // 2))
    width = max(page.shape[1] for page in pages)
    padding = [((0, 0), (0, width - page.shape[1]), (0, 0)) for page in pages]
    return np.concatenate([np.pad(p, pad, constant_values=255) for p, pad in zip(pages, padding, strict=True)])


def _rounded(value: Any) -> float:
    return round(float(value), 5)
