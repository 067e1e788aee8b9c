"""The options of every verb that trains a head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cyclopts import Parameter

from dinokit.cli.options import Whole

if TYPE_CHECKING:
    from dinokit.heads.fit import FitSettings


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
