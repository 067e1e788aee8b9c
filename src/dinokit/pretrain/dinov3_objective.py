"""The published objective: views agree on prototypes (DINO), masked patches too (iBOT), and features spread (KoLeo).

The teacher's scores become targets by Sinkhorn-Knopp. For long runs: in short ones targets must be sharp before the
features deserve it. Source: DINOv3 (arXiv 2508.10104, section 3.2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dinokit.errors import UserError
from dinokit.pretrain.losses.dino import dino_loss
from dinokit.pretrain.losses.ibot import ibot_loss
from dinokit.pretrain.losses.koleo import koleo_loss
from dinokit.pretrain.losses.sinkhorn import sinkhorn_knopp
from dinokit.pretrain.objectives import Heads, Losses, StudentViews, Targets, Views, check_weights
from dinokit.pretrain.prototype_head import PrototypeHead
from dinokit.pretrain.schedules import Values


@dataclass(frozen=True)
class Dinov3Settings:
    """Prototypes, temperatures and weights of the published objective."""

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
    """Steps from `teacher_temperature` to `teacher_temperature_end`."""
    dino_weight: float = 1.0
    patch_weight: float = 1.0
    koleo_weight: float = 0.1
    koleo_neighbours: int = 1
    local_weight: float = 1.0
    """Factor on the local-crop part of the DINO loss; the published Gram stage lowers it to 0.5."""
    centring: Literal["sinkhorn-knopp", "none"] = "sinkhorn-knopp"
    """How the teacher's scores become targets: balanced over the batch, or by a softmax alone, which collapses."""
    ignore_diagonal: bool = True
    """Do not compare a global view with itself."""

    def __post_init__(self) -> None:
        check_weights(self, "dinov3", "dino_weight", "patch_weight", "koleo_weight", "local_weight")
        if self.koleo_neighbours < 1 or self.teacher_temperature_warmup < 0:
            names = "dinov3.koleo_neighbours or dinov3.teacher_temperature_warmup"
            raise UserError(f"{names} is too small", "give 1 and 0 at least")
        for name in ("student_temperature", "teacher_temperature", "teacher_temperature_end"):
            if not getattr(self, name) > 0:
                raise UserError(f"dinov3.{name} = {getattr(self, name)} is not positive", "try 0.04 to 0.1")


class Dinov3Objective:
    """DINO on class tokens, iBOT on masked patches, KoLeo on class tokens before the head; see `Objective`."""

    def __init__(self, settings: Dinov3Settings) -> None:
        self.settings = settings

    def heads(self, width: int) -> Heads:
        """Prototype heads, [..., width] -> scores [..., K], of their own size for class tokens and patches."""
        s = self.settings

        def head(prototypes: int) -> PrototypeHead:
            return PrototypeHead(width, prototypes, s.hidden, s.bottleneck, unit_prototypes=s.unit_prototypes)

        return Heads({"dino_head": head(s.prototypes), "ibot_head": head(s.patch_prototypes)})

    def masks_crops(self, now: Values) -> bool:
        """Whether masked patches have a weight."""
        return self.settings.patch_weight > 0

    def matches_crops(self, now: Values) -> bool:
        """Never: only masked patches are compared."""
        return False

    def targets(self, heads: Heads, teacher: Views, now: Values) -> Targets:
        """Shares of prototypes, balanced over the batch: cls [2, B, K], masked [M, K']."""
        logits = heads["dino_head"](teacher.global_cls.flatten(0, 1))  # [2B, K]
        cls = self._assign(logits, now.teacher_temperature).unflatten(0, teacher.global_cls.shape[:2])
        if not self.masks_crops(now):
            return Targets(cls, masked=None)
        return Targets(cls, self._assign(heads["ibot_head"](teacher.masked_patches), now.teacher_temperature))

    def _assign(self, logits: Tensor, temperature: float) -> Tensor:
        """Scores [N, K] -> shares of prototypes [N, K], rows sum to 1."""
        if self.settings.centring == "none":
            return (logits.float() / temperature).softmax(dim=-1)
        return sinkhorn_knopp(logits, temperature)

    def losses(self, heads: Heads, student: StudentViews, targets: Targets, now: Values) -> Losses:
        """Weighted sum of the DINO terms, by their numbers of pairs of views, of iBOT, and of KoLeo per global view."""
        s = self.settings
        views = torch.cat([student.global_cls, student.local_cls])  # [2 + n, B, D]
        logits = heads["dino_head"](views.flatten(0, 1)).unflatten(0, views.shape[:2])  # [2 + n, B, K]
        count = len(student.global_cls)
        ours, warmth = logits[:count], s.student_temperature
        parts = {
            "dino_global": dino_loss(ours, targets.cls, temperature=warmth, ignore_diagonal=s.ignore_diagonal),
            "koleo": torch.stack([koleo_loss(view, s.koleo_neighbours) for view in student.global_cls]).mean(),
            **_sharpness(ours, targets.cls, warmth),
        }
        local_pairs = count * len(student.local_cls)
        share = local_pairs / (local_pairs + count * (count - 1 if s.ignore_diagonal else count))
        dino = (1 - share) * parts["dino_global"]
        if local_pairs:
            parts["dino_local"] = dino_loss(logits[count:], targets.cls, temperature=warmth)
            dino = dino + share * s.local_weight * parts["dino_local"]
        total = s.dino_weight * dino
        if targets.masked is not None:
            scores = heads["ibot_head"](student.masked_patches)  # [M, K']
            weights, rows = student.mask_weights, student.mask_rows
            parts["ibot"] = ibot_loss(scores, targets.masked, weights, rows, temperature=warmth)
            total = total + s.patch_weight * parts["ibot"]
        total = total + s.koleo_weight * count * parts["koleo"]
        return Losses(total, {key: value.detach() for key, value in parts.items()})


@torch.no_grad()
def _sharpness(logits: Tensor, targets: Tensor, temperature: float) -> dict[str, Tensor]:
    """Entropies as shares of the greatest: of each target (1: says nothing), of the student's use of prototypes.

    logits, targets: [2, B, K].
    """

    def entropy(shares: Tensor) -> Tensor:
        return -(shares * shares.clamp_min(1e-12).log()).sum(-1).mean() / math.log(shares.shape[-1])

    usage = (logits.float() / temperature).softmax(-1).flatten(0, -2).mean(0)  # [2, B, K] -> [K]
    return {"target_entropy": entropy(targets), "student_entropy": entropy(usage)}
