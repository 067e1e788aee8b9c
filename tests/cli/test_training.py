"""What a training run says on a terminal that is none: whole lines, names as they are."""

import io

from rich.console import Console
from rich.progress import Progress

from dinokit.cli.training import TerminalListener


def test_names_are_no_markup_and_lines_are_not_wrapped() -> None:
    console = Console(file=io.StringIO(), width=80)
    line = "skipped photos [edited]/set[/1].jpg :smile: " + "a-very-long-name" * 10
    TerminalListener(console, Progress(console=console, disable=True)).say(line)
    assert console.file.getvalue() == line + "\n"  # type: ignore[attr-defined]
