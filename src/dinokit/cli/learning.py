"""The options of every verb that trains a head."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import Parameter

from dinokit.cli.options import Whole

if TYPE_CHECKING:
    from dinokit.heads.fit import FitSettings, Fitted


@Parameter(name="*")
@dataclass(frozen=True)
class Learning:
    """How a head is trained."""

    steps: Whole = 1000
    """Steps of training at most; it ends earlier when the score gets no better."""
    batch: Whole = 16
    """Pictures a step."""
    lr: float = 1e-3
    """Learning rate after the warm-up."""
    weight_decay: float = 1e-3
    """Of AdamW."""
    seed: Whole = 0
    """Decides the first weights and the order of the pictures."""

    def settings(self) -> FitSettings:
        """The settings for the training loop."""
        from dinokit.heads.fit import FitSettings

        return FitSettings(
            steps=self.steps, batch=self.batch, lr=self.lr, weight_decay=self.weight_decay, seed=self.seed
        )


SETTINGS = Learning()


@contextmanager
def head_folder(out: Path) -> Iterator[Path]:
    """Makes the folder of a new head; hands out the file for unfinished work in it, which Ctrl-C is told to keep.

    Raises `UserError` where the folder holds a head already, or another process trains there.
    """
    from dinokit.checkpoints.folders import hold
    from dinokit.cli.output import keeping
    from dinokit.heads.saved import check_vacant

    check_vacant(out)
    with hold(out, "training"), keeping(out):
        yield out / "progress.pt"


def put_fitted(fitted: Fitted, score: str, values: Mapping[str, Any], out: Path, json: bool) -> None:
    """What a trained head reached: its `score` for people, or `values` and the step as JSON."""
    from dinokit.cli.output import put_result

    text = f"{score} on the validation pictures after {fitted.step} steps; the head is in {out}"
    put_result({**values, "step": fitted.step}, text, json)
