"""What `dinokit search` and `dinokit index search` do with their queries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dinokit.images.read import Source
    from dinokit.tasks.hits import Hits


def answer(search: Callable[[Source], Hits], pictures: Sequence[Source], out: Path | None, json: bool) -> None:
    """Search by each picture, print what was found as it comes, or all of it as JSON, and write it to `out`.

    No more of it is kept than is written: rows, and the first searches for a sheet.
    """
    from dinokit.cli.output import print_json, put, track, warn
    from dinokit.tasks.hits import SHOWN_SEARCHES, save_hits
    from dinokit.tasks.results import each_readable

    rows: list[dict[str, Any]] = []
    shown: list[Hits] = []
    for _, hits in track(each_readable(lambda part: map(search, part), pictures, warn), len(pictures), "searching"):
        if json or out is not None:
            rows.append(hits.to_row())
        if len(shown) < SHOWN_SEARCHES:
            shown.append(hits)
        for line in () if json else hits.describe().splitlines():
            put(line)
    if out is not None:
        save_hits(out, rows, shown)
    if json:
        print_json({"searches": rows})
