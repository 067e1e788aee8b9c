"""Watches a run for collapse and says what was seen and what to change.

Features collapse in two ways: all pictures get the same feature (no variance), or features fill only a few
directions (low rank; RankMe, Garrido et al. 2023). Prototypes collapse when few of them get all pictures (low
entropy of the student's assignments), or say nothing when each target is spread over all of them. A sign is said as
soon as it was seen twice in a row; the run is ended where it is clear and lasts.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dinokit.errors import UserError

PATIENCE = 200
"""Steps in a row for which a clear sign of collapse must last to end the run."""
GRACE = 300
"""Steps from the start, or the warm-up if that is longer, in which no sign ends it but numbers that are not finite."""
EARLIEST = 60
"""Step from which on signs are said: a network starts with nearly equal features."""
UNIFORM_GRACE = 3000
"""Steps in which uniform targets end no run: prototypes begin so."""
WINDOW = 512
"""Features of the latest pictures that rank and variance are measured on."""
MOST_BROKEN_STEPS = 3


@dataclass(frozen=True)
class Sign:
    """Something about a run that shows its collapse."""

    name: str
    seen: str
    """In words, with the number."""
    remedy: str
    worrying: bool
    clear: bool


def signs_of(health: Health, parts: Mapping[str, float], step: int) -> Iterator[Sign]:
    """What could be wrong, judged by the features' health and the parts of the loss."""
    variance, rank = health.variance, health.rank
    used, vague = parts.get("student_entropy", 1.0), parts.get("target_entropy", 0.0)
    apart = parts.get("spread", 1.0)
    yield Sign(
        "variance",
        f"features of different pictures are the same (variance {variance:.1e})",
        "lower optimizer.lr by a factor of 10 or raise optimizer.warmup; with prototypes, lower "
        "dinov3.teacher_temperature_end",
        variance < 0.02,
        variance < 1e-3,
    )
    yield Sign(
        "rank",
        f"features fill only {rank:.1f} directions",
        f"raise {'coding_rate.expansion_weight' if 'expansion' in parts else 'dinov3.koleo_weight'}, or lower "
        "optimizer.lr",
        rank < 8,
        rank < 3,
    )
    yield Sign(
        "spread",
        f"projections of different pictures are nearly the same (spread {apart:.2f} of 1)",
        "lower optimizer.lr by a factor of 10 or more, or raise coding_rate.expansion_weight",
        apart < 0.12,
        apart < 0.02,
    )
    yield Sign(
        "use",
        f"few prototypes get all pictures (entropy {used:.2f} of 1)",
        "set dinov3.centring=sinkhorn-knopp, lower optimizer.lr, or lower dinov3.teacher_temperature_end to 0.04",
        used < 0.4,
        used < 0.15,
    )
    yield Sign(
        "targets",
        f"the teacher's targets say nothing (entropy {vague:.3f} of 1)",
        "lower dinov3.teacher_temperature and its _end to 0.04, set dinov3.unit_prototypes=true, or use fewer "
        "prototypes",
        vague > 0.97,
        vague > 0.97 and step > UNIFORM_GRACE,
    )


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
        """The step at which each clear sign of collapse that is there now was seen first."""
        self._worries: dict[str, int] = {}
        """How often in a row each worrying sign was seen."""
        self.lost = False
        """Whether the run was ended by the monitor: its latest state is not worth keeping."""

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong now, so that a checkpoint may replace an older one."""
        return not self.signs and not self._broken

    @property
    def worried(self) -> bool:
        """Whether a sign of collapse has been said and is still there."""
        return any(count >= 2 for count in self._worries.values())

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
                "lower optimizer.lr by a factor of 3 (--set) and lengthen optimizer.warmup: the run goes on from the "
                "latest checkpoint, which is from before",
            )
        return False

    def see(self, features: Tensor) -> None:
        """Remember the teacher's class tokens [B, D] of one step."""
        self._features.append(features.detach().float().cpu())
        while sum(map(len, self._features)) - len(self._features[0]) >= WINDOW:
            self._features.popleft()

    def check(self, step: int, parts: Mapping[str, float]) -> tuple[Health, list[str]]:
        """The health of the features, and warnings: signs of collapse that were seen twice now, with their remedies.

        A clear sign that lasts ends the run.
        """
        health = measure_health(torch.cat(list(self._features)))
        warnings = []
        for sign in signs_of(health, parts, step):
            if step >= EARLIEST:
                self._worries[sign.name] = self._worries.get(sign.name, 0) + 1 if sign.worrying else 0
                if self._worries[sign.name] == 2:
                    warnings.append(f"{sign.seen} at step {step}: {sign.remedy}")
            if not sign.clear or step <= self._grace:
                self.signs.pop(sign.name, None)
                continue
            first = self.signs.setdefault(sign.name, step)
            if step - first >= PATIENCE:
                self.lost = True
                raise CollapseError(f"collapse at step {step}: {sign.seen} for {step - first} steps", sign.remedy)
        return health, warnings
