"""Values that change over a run: learning rate, weight decay, momentum, teacher temperature.

`Ramp` is what our loop asks at every step: warm-up, then constant for as long as one likes (or down along a
curve), and a cool-down from any step. Both families of the published code are here as arrays, the newer one
made from the same `Ramp.at`, so that whatever holds for the arrays holds for the loop.
Source: DINOv3 (arXiv 2508.10104, section 3.2: constant after warm-up); cool-down: Hägele (arXiv 2405.18392).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
ScalingRule = Literal["none", "sqrt_wrt_1024", "linear_wrt_256"]


@dataclass(frozen=True)
class Ramp:
    """start -> peak over `warmup` steps, then constant, or from peak to `end` until step `total`."""

    start: float
    """Value at step 0 where there is a warm-up."""
    peak: float
    """Value at step `warmup`."""
    end: float
    """Value after `total` steps, and after a cool-down."""
    warmup: int = 0
    """Steps of the linear warm-up; the peak is reached at step `warmup`, not before."""
    total: int | None = None
    """Steps of warm-up and curve together; None: constant after the warm-up, without end."""
    shape: Literal["constant", "cosine", "linear"] = "constant"
    """Curve between `warmup` and `total`; at step total - 1 it is `end`. `constant`: the peak."""

    def __post_init__(self) -> None:
        if self.warmup < 0 or (self.total is not None and self.total < self.warmup):
            raise ValueError(f"warmup {self.warmup} must lie within 0..total ({self.total})")

    def at(self, step: int) -> float:
        """Value at `step` (0-based), for every step >= 0."""
        if step < self.warmup:
            return self.start + (self.peak - self.start) * step / self.warmup
        if self.total is None or self.shape == "constant":
            return self.peak
        if step >= self.total:
            return self.end
        done = (step - self.warmup) / max(self.total - self.warmup - 1, 1)  # 0..1, both included
        if self.shape == "cosine":
            return self.end + (self.peak - self.end) * (1 + math.cos(math.pi * done)) / 2
        return self.end + (self.peak - self.end) * (1 - done)

    def cooled(self, step: int, begin: int, length: int) -> float:
        """Value at `step` of a run that cools down linearly over `length` steps from step `begin` on.

        `end` is reached at step begin + length; before `begin` it is `at(step)`.
        """
        if step <= begin:
            return self.at(step)
        top = self.at(begin)
        return top + (self.end - top) * min((step - begin) / max(length, 1), 1.0)

    def scaled(self, factor: float) -> "Ramp":
        """Peak and end times `factor`, start as it is (as the published batch-size rule does)."""
        return replace(self, peak=self.peak * factor, end=self.end * factor)


def batch_size_factor(rule: ScalingRule, batch: int) -> float:
    """What the learning rate is multiplied with for a global batch of `batch` pictures."""
    if rule == "sqrt_wrt_1024":
        return 4 * math.sqrt(batch / 1024)
    return batch / 256 if rule == "linear_wrt_256" else 1.0


def warmup_cosine_schedule(
    start: float, peak: float, end: float, *, warmup: int, total: int, cosine: int | None = None
) -> Array:
    """[total]: linear warm-up (peak excluded), half cosine over `cosine` steps (None: the rest), `end`."""
    curve = total - warmup if cosine is None else cosine
    ramp = Ramp(start, peak, end, warmup, warmup + curve, "cosine")
    return np.array([ramp.at(step) for step in range(total)], dtype=np.float64)


def cosine_schedule(
    base: float,
    final: float,
    total: int,
    *,
    warmup: int = 0,
    start: float = 0.0,
    freeze: int = 0,
    truncation: float = 0.0,
) -> Array:
    """[total]: `freeze` zeros, linear warm-up from `start` (base included), cosine that ends before `final`.

    truncation e lays the cosine over (1 + e) times the steps, cuts it off and stretches it so that the last
    value is `final`: a run that ends while the curve is steep. Steps past the end have the value `final`.
    """
    steps = total - warmup - freeze
    if steps < 0:
        raise ValueError(f"freeze {freeze} and warmup {warmup} are longer than the whole of {total} steps")
    if truncation > 0 and steps > 1:
        longer = np.linspace(0, np.pi, int((1 + truncation) * steps))  # here the end is included
        fall = (1 + np.cos(longer[:steps])) / 2
        fall = (fall - fall[-1]) / (1 - fall[-1])
    else:
        fall = (1 + np.cos(np.pi * np.arange(steps) / max(steps, 1))) / 2
    curve = final + (base - final) * fall  # [steps], from base downwards
    return np.concatenate([np.zeros(freeze), np.linspace(start, base, warmup), curve])


@dataclass(frozen=True)
class Schedules:
    """One value per step, each [steps]."""

    lr: Array
    weight_decay: Array
    momentum: Array
    """Of the EMA teacher."""
    teacher_temperature: Array
    last_layer_lr: Array
    """Learning rate of the prototypes: 0 while they are frozen, else `lr`."""


def assemble_cosine(fields: Mapping[str, float], epochs: int, per_epoch: int) -> Schedules:
    """The published schedules of the older kind, from the published field names (`lr`, `min_lr`, …).

    `per_epoch`: steps an epoch. `lr` is already scaled for the batch size (`min_lr` never is).
    """
    total, extra = epochs * per_epoch, fields.get("schedule_trunc_extra", 0.0)
    lr = cosine_schedule(
        fields["lr"],
        fields["min_lr"],
        total,
        warmup=_steps(fields, "warmup_epochs", per_epoch),
        truncation=extra,
    )
    decay = cosine_schedule(fields["weight_decay"], fields["weight_decay_end"], total, truncation=extra)
    momentum = cosine_schedule(fields["momentum_teacher"], fields["final_momentum_teacher"], total, truncation=extra)
    warmup = _steps(fields, "warmup_teacher_temp_epochs", per_epoch)
    temperature = np.full(total, fields["teacher_temp"])
    ramp = np.linspace(fields["warmup_teacher_temp"], fields["teacher_temp"], warmup)
    temperature[: len(ramp)] = ramp[:total]
    frozen = _steps(fields, "freeze_last_layer_epochs", per_epoch)
    return Schedules(lr, decay, momentum, temperature, freeze_start(lr, frozen))


def assemble_ramps(
    sections: Mapping[str, Mapping[str, float]], epochs: int, per_epoch: int, factor: float = 1.0
) -> Schedules:
    """The published schedules of the newer kind: sections lr, weight_decay, momentum, teacher_temp.

    Each has start, peak, end, warmup_epochs and optionally cosine_epochs; `factor` (batch size) scales the
    learning rate's peak and end.
    """

    def array(section: Mapping[str, float], scale: float = 1.0) -> Array:
        cosine = _steps(section, "cosine_epochs", per_epoch) if "cosine_epochs" in section else None
        peak, end = section["peak"] * scale, section["end"] * scale
        warmup = _steps(section, "warmup_epochs", per_epoch)
        return warmup_cosine_schedule(
            section["start"], peak, end, warmup=warmup, total=epochs * per_epoch, cosine=cosine
        )

    lr = array(sections["lr"], factor)
    frozen = _steps(sections["lr"], "freeze_last_layer_epochs", per_epoch)
    decay, momentum = array(sections["weight_decay"]), array(sections["momentum"])
    return Schedules(lr, decay, momentum, array(sections["teacher_temp"]), freeze_start(lr, frozen))


def freeze_start(schedule: Array, steps: int) -> Array:
    """A copy of `schedule` that is 0 for the first `steps`."""
    frozen = schedule.copy()
    frozen[:steps] = 0
    return frozen


def _steps(fields: Mapping[str, float], name: str, per_epoch: int) -> int:
    return int(fields.get(name, 0) * per_epoch)
