"""What verbs print: results on standard output, everything else on standard error.

Names of strangers go through `printable` on every way to the terminal: no escape sequences, one line a line.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from json import dumps
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.progress import TimeRemainingColumn as TimeLeftColumn
from rich.text import Text

from dinokit.checkpoints.names import printable

T = TypeVar("T")


class RateColumn(ProgressColumn):
    """How many a second."""

    def render(self, task: Task) -> Text:
        """The rate with three digits, or nothing yet."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.3g}/s" if speed else "", style="progress.data.speed")


def track(items: Iterable[T], total: int, label: str, done: int = 0) -> Iterator[T]:
    """Hand on `items` while a bar with rate and time left runs on standard error (on terminals only).

    `done`: how many of `total` were done before.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeLeftColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(label, total=total, completed=done)
        for item in items:
            progress.advance(task)
            yield item


@contextmanager
def keeping(place: object, then: str = "continues") -> Iterator[None]:
    """Says on Ctrl-C that `place` keeps what is finished, and what the same command does `then`."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"what is finished is kept in {place}; the same command {then}")
        raise


def tell(summary: dict[str, Any], line: str, listed: str, json: bool) -> None:
    """What became of a job: `line`, or the whole `summary` as JSON; `listed` says where the skipped pictures are."""
    if summary["skipped"]:
        say(f"{summary['summary']} ({listed})")
    put_result(summary, line, json)


def put_result(values: Any, text: str, json: bool) -> None:
    """`values` as one JSON object, or the lines of `text` for people."""
    if json:
        print_json(values)
    else:
        for line in text.splitlines():
            put(line)


def print_json(values: Any) -> None:
    """One JSON object, the only thing on standard output."""
    put(dumps(values, ensure_ascii=False))


def put(line: object) -> None:
    """One line on standard output, whatever names it holds; what the terminal's encoding lacks becomes "?"."""
    encoding = sys.stdout.encoding or "utf-8"
    print(printable(line).encode(encoding, "replace").decode(encoding))


def say(text: str) -> None:
    """A remark on standard error, in one line."""
    print(printable(text), file=sys.stderr)


def warn(text: str) -> None:
    """A warning on standard error, in one line."""
    say(f"warning: {' '.join(text.split())}")
