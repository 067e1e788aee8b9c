"""What the student is asked to learn: the interface of the exchangeable objectives, and what flows through it.

An objective names its heads, turns what the teacher saw into targets, and compares the student with them. It holds
settings and no state, so a step is a function of networks, batch and the values of that step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from dinokit.errors import UserError
from dinokit.pretrain.schedules import Values

Heads = nn.ModuleDict


@dataclass(frozen=True)
class Views:
    """Final-normed features of one batch of B pictures, as the student or the teacher saw them."""

    global_cls: Tensor
    """[2, B, D], class tokens of the global crops."""
    masked_patches: Tensor
    """[M, D], patches of the global crops at the cells that are hidden from the student."""
    matched_patches: Tensor
    """[K, D], the student's patches that the other global crop shows too; the teacher's at those places of it."""


@dataclass(frozen=True)
class StudentViews(Views):
    """What the student saw of the same batch: also n local crops, and masks."""

    local_cls: Tensor
    """[n, B, D], class tokens of the local crops."""
    mask_weights: Tensor
    """float32 [M], one over the masked cells of that patch's crop."""
    mask_rows: int
    """Global crops, masked or not: 2 B."""


@dataclass(frozen=True)
class Targets:
    """What the teacher asks of the student, float32, without gradient.

    A target is a share of each of K prototypes, or a projection of p numbers, by the objective.
    """

    cls: Tensor
    """[2, B, K] or [2, B, p]."""
    masked: Tensor | None
    """[M, K] or [M, p]; None where masked patches are not compared."""
    matched: Tensor | None = None
    """[matches, p]; None where matched patches are not compared."""


@dataclass(frozen=True)
class Losses:
    """The number to minimise, and its parts for the log."""

    total: Tensor
    """Scalar float32 with a gradient."""
    parts: dict[str, Tensor]
    """Scalars before weighting, without gradient."""


class Objective(Protocol):
    """What `StudentTeacher` asks of an objective."""

    def heads(self, width: int) -> Heads:
        """New heads for a backbone of that width, [..., width] -> [..., K or p]: `dino_head` and `ibot_head`."""

    def masks_crops(self, now: Values) -> bool:
        """Whether masked patches are compared at this step."""

    def matches_crops(self, now: Values) -> bool:
        """Whether patches that both global crops show are compared at this step."""

    def targets(self, heads: Heads, teacher: Views, now: Values) -> Targets:
        """What the teacher's views ask of the student, by the teacher's heads."""

    def losses(self, heads: Heads, student: StudentViews, targets: Targets, now: Values) -> Losses:
        """How far the student's views are from the targets, by the student's heads."""


def check_weights(settings: Any, part: str, *names: str) -> None:
    """Raises `UserError` where a weight of `settings`, named `part` in a recipe, is negative or not finite."""
    for name in names:
        if not 0 <= getattr(settings, name) < math.inf:
            raise UserError(f"{part}.{name} = {getattr(settings, name)} is out of bounds", "give 0 or more")
