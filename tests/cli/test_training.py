"""What a training run says on a terminal that is none: whole lines, names as they are."""

import io

from rich.console import Console
from rich.progress import Progress

from dinokit.cli.training import TerminalListener
from dinokit.data.listing import SkippedFiles
from dinokit.pretrain.loop import Status


def test_names_are_no_markup_and_lines_are_not_wrapped() -> None:
    console = Console(file=io.StringIO(), width=80)
    line = "skipped photos [edited]/set[/1].jpg :smile: " + "a-very-long-name" * 10
    TerminalListener(console, Progress(console=console, disable=True)).say(line)
    assert console.file.getvalue() == line + "\n"  # type: ignore[attr-defined]


def test_names_do_not_command_the_terminal() -> None:
    console = Console(file=io.StringIO(), width=80)
    listener = TerminalListener(console, Progress(console=console, disable=True))
    skipped = SkippedFiles()
    skipped.add("a.tar/b\x1b]0;owned\x07\x1b[31m.png", "is empty")
    skipped.add("a\nerror: all is lost.png", "is empty")
    for line in skipped.listing():
        listener.say(line)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert said == "a.tar/b]0;owned[31m.png is empty\naerror: all is lost.png is empty\n"


def test_signs_of_collapse_are_said() -> None:
    console = Console(file=io.StringIO(), width=80)
    progress = Progress(console=console, disable=True)
    listener = TerminalListener(console, progress)
    listener.task = progress.add_task("training", rate="")
    listener.trained(Status(80, 0, 1.0, 64.0, 0.0, {"loss": 0.5, "rank": 4.0}, ("features fill only 4.0 directions",)))
    assert "warning: features fill only 4.0 directions\n" in console.file.getvalue()  # type: ignore[attr-defined]
