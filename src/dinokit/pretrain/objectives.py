"""What the student is asked to learn: two exchangeable objectives over the same views, each with a patch loss.

`Dinov3Objective`: prototypes (DINO, iBOT, KoLeo; DINOv3, section 3). `CodingRateObjective`: no prototypes, agreement
with the teacher held apart by the coding rate (SimDINO, arXiv 2502.10385), which learns much faster on small runs.
An objective names its heads, turns what the teacher saw into targets, and compares the student with them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinokit.errors import UserError
from dinokit.pretrain.losses.coding_rate import alignment, coding_rate
from dinokit.pretrain.losses.dino import dino_loss
from dinokit.pretrain.losses.ibot import ibot_loss
from dinokit.pretrain.losses.koleo import koleo_loss
from dinokit.pretrain.losses.sinkhorn import sinkhorn_knopp
from dinokit.pretrain.prototype_head import ProjectionHead, PrototypeHead
from dinokit.pretrain.schedules import Ramp

Heads = nn.ModuleDict


@dataclass(frozen=True)
class Views:
    """Final-normed features of one batch of B pictures seen by the student or the teacher.

    global_cls [2, B, D]; local_cls [n, B, D] (student only); masked_patches [M, D] at the masked cells, with
    mask_weights [M] (one over the masked cells of a row) and mask_rows, the number of global crops, 2 B;
    matched_patches [K, D]: the student's patches that the other crop shows too; the teacher's at the same places
    of that other crop.
    """

    global_cls: Tensor
    masked_patches: Tensor
    matched_patches: Tensor
    mask_weights: Tensor
    mask_rows: int
    local_cls: Tensor | None = None


@dataclass(frozen=True)
class Losses:
    """The number to minimise, and its parts before weighting for the log."""

    total: Tensor
    parts: dict[str, Tensor]


class Objective(Protocol):
    def heads(self, width: int) -> Heads:
        """New heads for a backbone of that width."""

    def matches_crops(self, step: int) -> bool:
        """Whether patches that both global crops show are compared."""

    def targets(self, heads: Heads, teacher: Views, step: int) -> dict[str, Tensor]:
        """What the teacher's views ask of the student."""

    def losses(self, heads: Heads, student: Views, targets: dict[str, Tensor], step: int) -> Losses:
        """How far the student is from the targets."""


def _check_weights(settings: Any, part: str, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(settings, name) < math.inf:
            raise UserError(f"{part}.{name} = {getattr(settings, name)} is out of bounds", "give 0 or more")


@dataclass(frozen=True)
class Dinov3Settings:
    """Prototypes, temperatures and weights of the published objective (training.md of the paper's recipe)."""

    prototypes: int = 4096
    patch_prototypes: int = 4096
    hidden: int = 1024
    bottleneck: int = 256
    unit_prototypes: bool = True
    """Prototypes of unit length. The published head leaves them free, which keeps targets uniform in small runs."""
    student_temperature: float = 0.1
    teacher_temperature: float = 0.04
    teacher_temperature_end: float = 0.07
    teacher_temperature_warmup: int = 10_000
    dino_weight: float = 1.0
    patch_weight: float = 1.0
    koleo_weight: float = 0.1
    koleo_neighbours: int = 1
    local_weight: float = 1.0
    """Factor on the local-crop part of the DINO loss; the published Gram stage lowers it to 0.5."""
    ignore_diagonal: bool = True
    """Do not compare a global view with itself."""

    def __post_init__(self) -> None:
        _check_weights(self, "dinov3", "dino_weight", "patch_weight", "koleo_weight", "local_weight")
        if self.koleo_neighbours < 1 or self.teacher_temperature_warmup < 0:
            names = "dinov3.koleo_neighbours or dinov3.teacher_temperature_warmup"
            raise UserError(f"{names} is too small", "give 1 and 0 at least")
        for name in ("student_temperature", "teacher_temperature", "teacher_temperature_end"):
            if not getattr(self, name) > 0:
                raise UserError(f"dinov3.{name} = {getattr(self, name)} is not positive", "try 0.04 to 0.1")


class Dinov3Objective:
    def __init__(self, settings: Dinov3Settings) -> None:
        self.settings = settings
        self._temperature = Ramp(
            settings.teacher_temperature,
            settings.teacher_temperature_end,
            settings.teacher_temperature_end,
            settings.teacher_temperature_warmup,
        )

    def heads(self, width: int) -> Heads:
        s = self.settings

        def head(prototypes: int) -> PrototypeHead:
            return PrototypeHead(width, prototypes, s.hidden, s.bottleneck, unit_prototypes=s.unit_prototypes)

        return Heads({"dino_head": head(s.prototypes), "ibot_head": head(s.patch_prototypes)})

    def matches_crops(self, step: int) -> bool:
        return False

    def targets(self, heads: Heads, teacher: Views, step: int) -> dict[str, Tensor]:
        temperature = self._temperature.at(step)
        logits = heads["dino_head"](teacher.global_cls.flatten(0, 1))  # [2B, K]
        patch_logits = heads["ibot_head"](teacher.masked_patches)  # [M, K]
        return {
            "cls": sinkhorn_knopp(logits, temperature).unflatten(0, teacher.global_cls.shape[:2]),
            "patches": sinkhorn_knopp(patch_logits, temperature),
        }

    def losses(self, heads: Heads, student: Views, targets: dict[str, Tensor], step: int) -> Losses:
        s = self.settings
        assert student.local_cls is not None
        views = torch.cat([student.global_cls, student.local_cls])  # [2 + n, B, D]
        logits = heads["dino_head"](views.flatten(0, 1)).unflatten(0, views.shape[:2])
        count = len(student.global_cls)
        global_terms = count * (count - 1) if s.ignore_diagonal else count * count
        local_terms = count * len(student.local_cls)
        warmth = s.student_temperature
        diagonal = s.ignore_diagonal
        parts = {
            "dino_global": dino_loss(logits[:count], targets["cls"], temperature=warmth, ignore_diagonal=diagonal),
            "ibot": ibot_loss(
                heads["ibot_head"](student.masked_patches),
                targets["patches"],
                student.mask_weights,
                student.mask_rows,
                temperature=warmth,
            ),
            "koleo": torch.stack([koleo_loss(view, s.koleo_neighbours) for view in student.global_cls]).mean(),
            **_sharpness(logits[:count], targets["cls"], warmth),
        }
        share = local_terms / (global_terms + local_terms)
        dino_total = (1 - share) * parts["dino_global"]
        if local_terms:
            parts["dino_local"] = dino_loss(logits[count:], targets["cls"], temperature=warmth)
            dino_total = dino_total + share * s.local_weight * parts["dino_local"]
        total = s.dino_weight * dino_total + s.patch_weight * parts["ibot"] + s.koleo_weight * count * parts["koleo"]
        return Losses(total, {key: value.detach() for key, value in parts.items()})


@torch.no_grad()
def _sharpness(logits: Tensor, targets: Tensor, temperature: float) -> dict[str, Tensor]:
    """Entropies as shares of the greatest: of each target (1: says nothing), of the student's use of prototypes."""

    def entropy(shares: Tensor) -> Tensor:
        return -(shares * shares.clamp_min(1e-12).log()).sum(-1).mean() / math.log(shares.shape[-1])

    usage = (logits.float() / temperature).softmax(-1).flatten(0, -2).mean(0)
    return {"target_entropy": entropy(targets), "student_entropy": entropy(usage)}


@dataclass(frozen=True)
class CodingRateSettings:
    """Sizes and weights of the objective without prototypes."""

    hidden: int = 1024
    projection: int = 256
    expansion_weight: float = 0.4
    """Weight of the coding rate per dimension: about 1 - w of a direction's variance must be predictable for it to
    survive. Ten times as much drives views apart and fails."""
    patch_weight: float = 0.2
    """Weight of the cosine distance of masked patches to the teacher's, and of their own coding rate."""
    match_weight: float = 0.5
    """The same for patches that both global crops show, towards the teacher's at that place of the other crop."""
    patch_expansion_weight: float = 1.5
    """Weight of the patches' coding rate: higher, because less of a patch can be told from what is around it."""
    patch_after: int = 0
    """Step at which the patch losses begin: earlier they hold the class token back."""
    epsilon: float = 0.5

    def __post_init__(self) -> None:
        names = ("expansion_weight", "patch_weight", "match_weight", "patch_expansion_weight")
        _check_weights(self, "coding_rate", *names)
        if not self.epsilon > 0:
            raise UserError(f"coding_rate.epsilon = {self.epsilon} is not positive", "try 0.5")


class CodingRateObjective:
    def __init__(self, settings: CodingRateSettings) -> None:
        self.settings = settings

    def heads(self, width: int) -> Heads:
        s = self.settings
        return Heads(
            {
                "dino_head": ProjectionHead(width, s.hidden, s.projection),
                "ibot_head": ProjectionHead(width, s.hidden, s.projection, layers=1),
            }
        )

    def matches_crops(self, step: int) -> bool:
        return self.settings.match_weight > 0 and step >= self.settings.patch_after

    def targets(self, heads: Heads, teacher: Views, step: int) -> dict[str, Tensor]:
        cls = heads["dino_head"](teacher.global_cls.flatten(0, 1)).unflatten(0, teacher.global_cls.shape[:2])
        return {
            "cls": cls.float(),
            "patch": _unit(heads["ibot_head"], teacher.masked_patches),
            "match": _unit(heads["ibot_head"], teacher.matched_patches),
        }

    def losses(self, heads: Heads, student: Views, targets: dict[str, Tensor], step: int) -> Losses:
        s = self.settings
        assert student.local_cls is not None
        views = torch.cat([student.global_cls, student.local_cls])  # [2 + n, B, D]
        projected = heads["dino_head"](views.flatten(0, 1)).float().unflatten(0, views.shape[:2])
        count = len(student.global_cls)
        parts = {
            "distance": 1 - alignment(projected, targets["cls"], ignore_diagonal=True),
            "expansion": torch.stack([self._rate(view) for view in projected[:count]]).mean(),
        }
        total = parts["distance"] - s.expansion_weight * parts["expansion"]
        masked = student.mask_weights / student.mask_weights.sum().clamp_min(1e-6)
        matched = student.matched_patches.new_full((len(targets["match"]),), 1 / max(len(targets["match"]), 1))
        for name, weight, patches, shares in (
            ("patch", s.patch_weight, student.masked_patches, masked),
            ("match", s.match_weight, student.matched_patches, matched),
        ):
            if weight > 0 and step >= s.patch_after and len(patches):
                ours = _unit(heads["ibot_head"], patches)
                distance = (shares * (1 - (ours * targets[name]).sum(-1))).sum()
                expansion = self._rate(_sample(ours, 8 * s.projection))
                total = total + weight * (distance - s.patch_expansion_weight * expansion)
                parts |= {f"{name}_distance": distance, f"{name}_expansion": expansion}
        return Losses(total, {key: value.detach() for key, value in parts.items()})

    def _rate(self, features: Tensor) -> Tensor:
        """Coding rate per dimension: what a little variance gains does not depend on the number of features."""
        return coding_rate(features, self.settings.epsilon) / features.shape[-1]


def _unit(head: nn.Module, tokens: Tensor) -> Tensor:
    """Projections of unit length in float32: [..., D] -> [..., p]."""
    return F.normalize(head(tokens).float(), dim=-1)


def _sample(rows: Tensor, most: int) -> Tensor:
    """At most that many rows, drawn without replacement."""
    return rows[torch.randperm(len(rows), device=rows.device)[:most]]
