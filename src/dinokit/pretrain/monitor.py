"""Watches a run for collapse and says what was seen and what to change.

Features collapse in two ways: all pictures get the same feature (no variance), or features fill only a few
directions (low rank; RankMe, Garrido et al. 2023). Prototypes collapse when few of them get all pictures (low
entropy of the student's assignments). Each is given time, since a network starts with nearly equal features.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dinokit.errors import UserError

PATIENCE = 200
"""Steps in a row for which a sign of collapse must last."""
GRACE = 300
"""Steps from the start, or the warm-up if that is longer, in which no sign counts but numbers that are not finite."""
UNIFORM_GRACE = 3000
"""Steps in which targets may be uniform: prototypes begin so."""
MOST_TARGET_ENTROPY = 0.97
LEAST_RANK = 3.0
LEAST_VARIANCE = 1e-3
LEAST_ENTROPY = 0.15
WINDOW = 512
"""Features of the latest pictures that rank and variance are measured on."""
MOST_BROKEN_STEPS = 3


class CollapseError(UserError):
    """The run learns nothing any more; the message says what was seen, the hint what to change."""


@dataclass(frozen=True)
class Health:
    """Measures of the teacher's class tokens over the latest pictures."""

    rank: float
    """RankMe of the centred features: exp of the entropy of their singular values; at most the width."""
    variance: float
    """Mean squared distance of unit features to their mean, 0 (all the same) to 1."""


def measure_health(features: Tensor) -> Health:
    """Health of class tokens [N, D]."""
    unit = F.normalize(features.float(), dim=-1)
    centred = unit - unit.mean(0)
    values = torch.linalg.svdvals(centred)
    shares = values / values.sum().clamp_min(1e-12) + 1e-7
    return Health(
        rank=math.exp(-(shares * shares.log()).sum().item()),
        variance=centred.square().sum(-1).mean().item(),
    )


class Monitor:
    """Sees every step; raises `CollapseError` when the run is lost."""

    def __init__(self, grace: int = 0) -> None:
        self._features: deque[Tensor] = deque()
        self._grace = max(GRACE, grace)
        self._broken = 0
        self.signs: dict[str, int] = {}
        """The step at which each sign of collapse that is there now was seen first."""
        self.lost = False
        """Whether the run was ended by the monitor: its latest state is not worth keeping."""

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong now, so that a checkpoint may replace an older one."""
        return not self.signs and not self._broken

    def finite(self, step: int, name: str, value: float) -> bool:
        """Whether the loss or gradient is a number; the third step in a row where it is not ends the run."""
        if math.isfinite(value):
            self._broken = 0 if name == "gradient" else self._broken
            return True
        self._broken += 1
        if self._broken >= MOST_BROKEN_STEPS:
            self.lost = True
            raise CollapseError(
                f"the {name} is {value} at step {step}, {self._broken} steps in a row",
                "lower optimizer.lr by a factor of 3 and lengthen optimizer.warmup; the same command goes on from the "
                "latest checkpoint, which is from before",
            )
        return False

    def see(self, features: Tensor) -> None:
        """Remember the teacher's class tokens [B, D] of one step."""
        self._features.append(features.detach().float().cpu())
        while sum(map(len, self._features)) - len(self._features[0]) >= WINDOW:
            self._features.popleft()

    def check(self, step: int, parts: dict[str, float]) -> Health:
        """Measure the health of the features; a sign of collapse that lasts ends the run."""
        health = measure_health(torch.cat(list(self._features)))
        signs = {
            f"features of different pictures are the same (variance {health.variance:.1e})": (
                health.variance < LEAST_VARIANCE,
                "raise optimizer.warmup or lower optimizer.lr; with prototypes, lower dinov3.teacher_temperature_end",
            ),
            f"features fill only {health.rank:.1f} directions": (
                health.rank < LEAST_RANK,
                "raise coding_rate.expansion_weight or dinov3.koleo_weight, or lower optimizer.lr",
            ),
            f"few prototypes get all pictures (entropy {parts.get('student_entropy', 1.0):.2f} of 1)": (
                parts.get("student_entropy", 1.0) < LEAST_ENTROPY,
                "lower optimizer.lr, or lower dinov3.teacher_temperature_end to 0.04",
            ),
            f"the teacher's targets say nothing (entropy {parts.get('target_entropy', 0.0):.3f} of 1)": (
                parts.get("target_entropy", 0.0) > MOST_TARGET_ENTROPY and step > UNIFORM_GRACE,
                "set dinov3.unit_prototypes=true, lower dinov3.teacher_temperature to 0.04, or use fewer prototypes",
            ),
        }
        for index, (sign, (seen, remedy)) in enumerate(signs.items()):
            if not seen or step <= self._grace:
                self.signs.pop(str(index), None)
                continue
            first = self.signs.setdefault(str(index), step)
            if step - first >= PATIENCE:
                self.lost = True
                raise CollapseError(f"collapse at step {step}: {sign} for {step - first} steps", remedy)
        return health
