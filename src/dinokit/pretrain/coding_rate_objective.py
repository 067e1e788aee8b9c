"""The objective without prototypes: views agree with the teacher's, and the coding rate holds pictures apart.

It learns much faster than prototypes in a small run. The same is asked of masked patches and of
patches that both global crops show. Sources: SimDINO (arXiv 2502.10385); matched patches: VICRegL (arXiv 2210.01571).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinokit.errors import UserError
from dinokit.pretrain.losses.coding_rate import alignment, coding_rate, spread
from dinokit.pretrain.objectives import Heads, Losses, StudentViews, Targets, Views, check_weights
from dinokit.pretrain.prototype_head import ProjectionHead
from dinokit.pretrain.schedules import Values


@dataclass(frozen=True)
class CodingRateSettings:
    """Sizes and weights of the objective without prototypes."""

    hidden: int = 1024
    projection: int = 256
    """Numbers p that a token is projected to."""
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
    """Squared distance below which the coding rate does not tell features apart."""

    def __post_init__(self) -> None:
        names = ("expansion_weight", "patch_weight", "match_weight", "patch_expansion_weight")
        check_weights(self, "coding_rate", *names)
        if not self.epsilon > 0:
            raise UserError(f"coding_rate.epsilon = {self.epsilon} is not positive", "try 0.5")


class CodingRateObjective:
    """Cosine distance less coding rate, on class tokens and on patches; see `Objective`."""

    def __init__(self, settings: CodingRateSettings) -> None:
        self.settings = settings

    def heads(self, width: int) -> Heads:
        """Projections [N, width] -> [N, p]: an MLP for class tokens, one linear map for patches."""
        s = self.settings
        return Heads(
            {
                "dino_head": ProjectionHead(width, s.hidden, s.projection),
                "ibot_head": ProjectionHead(width, s.hidden, s.projection, layers=1),
            }
        )

    def masks_crops(self, now: Values) -> bool:
        """Whether masked patches have a weight and the patch losses have begun."""
        return self.settings.patch_weight > 0 and now.step >= self.settings.patch_after

    def matches_crops(self, now: Values) -> bool:
        """The same of matched patches."""
        return self.settings.match_weight > 0 and now.step >= self.settings.patch_after

    def targets(self, heads: Heads, teacher: Views, now: Values) -> Targets:
        """Projections cls [2, B, p]; of patches [M, p], [matches, p] with unit length, once their losses have begun."""
        cls = heads["dino_head"](teacher.global_cls.flatten(0, 1)).unflatten(0, teacher.global_cls.shape[:2])
        masked = matched = None
        if self.masks_crops(now) and len(teacher.masked_patches):
            masked = _unit(heads["ibot_head"], teacher.masked_patches)
        if self.matches_crops(now) and len(teacher.matched_patches):
            matched = _unit(heads["ibot_head"], teacher.matched_patches)
        return Targets(cls.float(), masked, matched)

    def losses(self, heads: Heads, student: StudentViews, targets: Targets, now: Values) -> Losses:
        """Distance to the teacher's global views less the coding rate of ours, and the same of patches."""
        s = self.settings
        views = torch.cat([student.global_cls, student.local_cls])  # [2 + n, B, D]
        projected = heads["dino_head"](views.flatten(0, 1)).float().unflatten(0, views.shape[:2])  # [2 + n, B, p]
        parts = {
            "distance": 1 - alignment(projected, targets.cls, ignore_diagonal=True),
            "expansion": torch.stack([self._rate(view) for view in projected[: len(student.global_cls)]]).mean(),
        }
        _, samples, width = projected.shape
        parts["spread"] = spread(parts["expansion"] * width, samples, width, s.epsilon)
        total = parts["distance"] - s.expansion_weight * parts["expansion"]
        for name, weight, patches, asked, shares in (
            ("patch", s.patch_weight, student.masked_patches, targets.masked, student.mask_weights),
            ("match", s.match_weight, student.matched_patches, targets.matched, None),
        ):
            if asked is not None:
                ours = _unit(heads["ibot_head"], patches)
                distance, expansion = _distance(ours, asked, shares), self._rate(ours)
                total = total + weight * (distance - s.patch_expansion_weight * expansion)
                parts |= {f"{name}_distance": distance, f"{name}_expansion": expansion}
        return Losses(total, {key: value.detach() for key, value in parts.items()})

    def _rate(self, features: Tensor) -> Tensor:
        """Coding rate of [m, p] per dimension: what a little variance gains does not depend on p."""
        return coding_rate(features, self.settings.epsilon) / features.shape[-1]


def _unit(head: nn.Module, tokens: Tensor) -> Tensor:
    """Projections of unit length in float32: [N, D] -> [N, p]."""
    return F.normalize(head(tokens).float(), dim=-1)


def _distance(ours: Tensor, asked: Tensor, weights: Tensor | None) -> Tensor:
    """Mean of 1 - cosine over rows [M, p] of unit length, weighted by `weights` [M] where given."""
    distances = 1 - (ours * asked).sum(-1)  # [M]
    return distances.mean() if weights is None else (weights * distances).sum() / weights.sum()
