"""Values that change over a run: learning rate, weight decay, teacher momentum, teacher temperature.

Each is a `Ramp`: a first value and the changes after it, piece by piece. `Schedules` holds one a quantity, built
from the recipe in `Recipe.schedules` alone; the loop asks it at every step and hands the `Values` on.
Sources: DINOv3 (arXiv 2508.10104, section 3.2: constant after a warm-up), DINO (arXiv 2104.14294: half cosines),
cool-down: Hägele (arXiv 2405.18392).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

Curve = Literal["linear", "cosine"]
ScalingRule = Literal["none", "sqrt_wrt_1024", "linear_wrt_256"]


@dataclass(frozen=True)
class Piece:
    """From `begin` at step `since` to `end`, `over` so many steps; `end` from then on, at once where `over` <= 0."""

    begin: float
    end: float
    since: int
    over: int
    curve: Curve = "linear"
    extra: float = 0.0
    """Share by which a cosine is laid beyond its end and cut off there, so that it ends while it is steep."""

    def at(self, step: int) -> float:
        """Value at `step` >= `since`."""
        done = step - self.since
        if done >= self.over:
            return self.end
        if self.curve == "linear":
            return self.begin + (self.end - self.begin) * done / self.over
        whole = int((1 + self.extra) * (self.over + 1)) - 1  # the published code counts points, not steps between
        lowest = math.cos(math.pi * (self.over / whole))
        left = (math.cos(math.pi * (done / whole)) - lowest) / (1 - lowest)  # 1 falls to 0
        return self.end + (self.begin - self.end) * left


@dataclass(frozen=True)
class Ramp:
    """A value for every step >= 0: `first`, until a piece begins; a later piece takes over from an earlier one."""

    first: float
    pieces: tuple[Piece, ...] = ()
    frozen: int = 0
    """Steps at the start in which the value is 0 instead."""

    def at(self, step: int) -> float:
        """Value at `step`, counted from 0."""
        if max(step, 0) < self.frozen:
            return 0.0
        begun = [piece for piece in self.pieces if piece.since <= step]
        return begun[-1].at(step) if begun else self.first

    def to(self, end: float, since: int, over: int, curve: Curve = "linear", extra: float = 0.0) -> Ramp:
        """This ramp, but from step `since` on it goes from where it is then to `end`, over so many steps."""
        return replace(self, pieces=(*self.pieces, Piece(self.at(since), end, since, over, curve, extra)))


@dataclass(frozen=True)
class Values:
    """What changes over a run, at one step."""

    step: int
    """Counted from 0."""
    lr: float
    last_layer_lr: float
    """Of the prototypes."""
    weight_decay: float
    momentum: float
    """Of the teacher: the share that it keeps of itself."""
    teacher_temperature: float


@dataclass(frozen=True)
class Schedules:
    """What changes over a run; see `Values`."""

    lr: Ramp
    last_layer_lr: Ramp
    weight_decay: Ramp
    momentum: Ramp
    teacher_temperature: Ramp

    def at(self, step: int) -> Values:
        """The values of a step, counted from 0."""
        return Values(
            step,
            lr=self.lr.at(step),
            last_layer_lr=self.last_layer_lr.at(step),
            weight_decay=self.weight_decay.at(step),
            momentum=self.momentum.at(step),
            teacher_temperature=self.teacher_temperature.at(step),
        )


def batch_size_factor(rule: ScalingRule, batch: int) -> float:
    """What the learning rate is multiplied with for a global batch of `batch` pictures."""
    if rule == "sqrt_wrt_1024":
        return 4 * math.sqrt(batch / 1024)
    return batch / 256 if rule == "linear_wrt_256" else 1.0
