"""Follows a training run on a terminal: a bar with rate and time left, remarks above it, Ctrl-C that saves."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from dinokit.checkpoints.names import printable
from dinokit.pretrain.loop import Pretraining, Status
from dinokit.report.run_page import write_run_page

PLAIN_SECONDS = 60
"""Between lines where standard error is no terminal."""


class TerminalListener:
    """Shows what a run tells it on standard error."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self.console, self.progress = console, progress
        self.task: TaskID | None = None
        self.said = -float(PLAIN_SECONDS)

    def say(self, text: str) -> None:
        """One remark in one line: names in it are no markup and no commands to the terminal, and it is not wrapped."""
        self.console.print(printable(text), markup=False, emoji=False, highlight=False, soft_wrap=True)

    def decoded(self, done: int, total: int) -> None:
        if self.task is None:
            self.task = self.progress.add_task("decoding", total=total, rate="")
        self.progress.update(self.task, completed=done, total=total)
        if done >= total:
            self.progress.remove_task(self.task)
            self.task = None

    def train(self, run: Pretraining) -> None:
        """Run it behind a bar."""
        self.task = self.progress.add_task("training", total=run.steps or None, completed=run.step, rate="")
        run.run(self.trained, self.stepped)

    def stepped(self, step: int) -> None:
        assert self.task is not None
        self.progress.update(self.task, completed=step)

    def trained(self, status: Status) -> None:
        line, now = summarize(status), time.monotonic()
        assert self.task is not None
        self.progress.update(self.task, rate=line)
        for text in status.warnings:
            self.say(f"warning: {text}")
        if "knn" in status.numbers or (not self.console.is_terminal and now - self.said >= PLAIN_SECONDS):
            self.say(line)
            self.said = now


def summarize(status: Status) -> str:
    """One line: step, loss, rank of the features, kNN where it was measured, pictures a second, time left."""
    of = f"/{status.steps}" if status.steps else ""
    numbers = status.numbers
    knn = f"  kNN {numbers['knn']:.1f} %" if "knn" in numbers else ""
    left = ""
    if status.steps and status.step:
        seconds = status.seconds_left
        left = f"  {seconds / 60:.0f} min left" if seconds >= 60 else f"  {seconds:.0f} s left"
    return (
        f"step {status.step}{of}  loss {numbers.get('loss', float('nan')):.3f}  rank {numbers['rank']:.0f}{knn}  "
        f"{status.images_per_second:.0f} pictures/s{left}"
    )


def follow(prepare: Callable[[TerminalListener], Pretraining]) -> None:
    """Prepare a run and train it. The first Ctrl-C (or SIGTERM) saves and ends it, the second ends at once."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[rate]}"))
    with Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal) as progress:
        listener = TerminalListener(console, progress)
        run = prepare(listener)
        _stop_on_signals(run, listener)
        try:
            listener.train(run)
        finally:
            _tell_curves(run, listener)
    ended = "stopped" if run.stopping else "done"
    listener.say(f"{ended} at step {run.step}; the model is in {run.run_folder / 'model'}")
    if run.stopping and run.monitor.worried:
        listener.say("what the warning says is in these weights: begin anew with its remedy and another --out")
    elif run.stopping:
        listener.say("the same command goes on from here")


def _tell_curves(run: Pretraining, listener: TerminalListener) -> None:
    if run.pictures.skipped:
        for line in run.pictures.skipped.listing():
            listener.say(line)
    log = run.run_folder / "log.jsonl"
    if log.is_file() and log.stat().st_size:
        listener.say(f"curves: {write_run_page(run.run_folder)}")


def _stop_on_signals(run: Pretraining, listener: TerminalListener) -> None:
    def stop(number: int, frame: FrameType | None) -> None:
        listener.say("stopping after this step and saving (once more: end at once)")
        run.stop()
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
