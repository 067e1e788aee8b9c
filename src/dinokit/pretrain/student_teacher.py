"""The student, which learns, and the teacher, its moving average, which tells it what to see (DINOv3, section 3).

Both are the same backbone with the same heads. The teacher sees whole global crops; the student sees them with
masked patches, and small local crops.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from dinokit.backbones.vit import VisionTransformer
from dinokit.pretrain.crops import Crops
from dinokit.pretrain.masks import MaskBatch
from dinokit.pretrain.matches import Matches, match_patches, no_matches
from dinokit.pretrain.objectives import Heads, Losses, Objective, StudentViews, Views
from dinokit.pretrain.schedules import Values


class Network(nn.Module):
    """A backbone with the heads of an objective."""

    def __init__(self, backbone: VisionTransformer, heads: Heads) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = heads

    def parts(self) -> dict[str, nn.Module]:
        """The modules whose gradients are clipped each on its own."""
        return {"backbone": self.backbone, **dict(self.heads.items())}

    def named(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters under their published names: `backbone.…`, `dino_head.…`, `ibot_head.…`."""
        for part, module in self.parts().items():
            for name, parameter in module.named_parameters():
                yield f"{part}.{name}", parameter


def _see(backbone: VisionTransformer, views: Tensor, masks: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Global crops [2, B, 3, H, W] -> class tokens [2, B, D], patches [2B, N, D]; masks: bool [2B, N], hidden ones."""
    seen = backbone(views.flatten(0, 1), masks)
    return seen.cls.unflatten(0, views.shape[:2]), seen.tokens


def _see_local(backbone: VisionTransformer, views: Tensor) -> Tensor:
    """Local crops [n, B, 3, H, W] -> class tokens [n, B, D]; n may be 0."""
    if not len(views):
        return views.new_empty(0, views.shape[1], backbone.spec.width)
    cls: Tensor = backbone(views.flatten(0, 1), local=True).cls.unflatten(0, views.shape[:2])
    return cls


class StudentTeacher(nn.Module):
    """Runs both networks on a batch of crops and compares them by the objective."""

    def __init__(self, backbone: VisionTransformer, objective: Objective, heads: Heads | None = None) -> None:
        super().__init__()
        self.objective = objective
        self.student = Network(backbone, heads if heads is not None else objective.heads(backbone.spec.width))
        self.teacher = copy.deepcopy(self.student)
        self.teacher.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> StudentTeacher:
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, crops: Crops, masks: MaskBatch, now: Values) -> tuple[Losses, Views]:
        """The losses of one batch at a step of the run, and the teacher's views for the monitor."""
        matches = self._match(crops) if self.objective.matches_crops(now) else no_matches(masks.indices.device)
        with torch.no_grad():
            teacher = self._teacher_views(crops, masks, matches)
            targets = self.objective.targets(self.teacher.heads, teacher, now)
        student = self._student_views(crops, masks, matches)
        return self.objective.losses(self.student.heads, student, targets, now), teacher

    def _teacher_views(self, crops: Crops, masks: MaskBatch, matches: Matches) -> Views:
        """The global crops as they are."""
        cls, patches = _see(self.teacher.backbone, crops.global_views)
        return Views(
            global_cls=cls,
            masked_patches=patches.flatten(0, 1)[masks.indices],  # [2B, N, D] -> [M, D]
            matched_patches=matches.other(patches),  # [2B, N, D] -> [K, D]
        )

    def _student_views(self, crops: Crops, masks: MaskBatch, matches: Matches) -> StudentViews:
        """The global crops with hidden patches, and the local ones."""
        cls, patches = _see(self.student.backbone, crops.global_views, masks.masks)
        return StudentViews(
            global_cls=cls,
            masked_patches=patches.flatten(0, 1)[masks.indices],  # [2B, N, D] -> [M, D]
            matched_patches=matches.own(patches),  # [2B, N, D] -> [K, D]
            local_cls=_see_local(self.student.backbone, crops.local_views),
            mask_weights=masks.weights,
            mask_rows=len(patches),
        )

    def _match(self, crops: Crops) -> Matches:
        patch = self.student.backbone.spec.patch_size
        grid = (crops.global_views.shape[-2] // patch, crops.global_views.shape[-1] // patch)
        return match_patches(crops.global_boxes, crops.global_flips, grid).to(crops.global_views.device)

    @torch.no_grad()
    def update_teacher(self, momentum: float) -> None:
        """teacher = momentum * teacher + (1 - momentum) * student, parameters only."""
        teacher: list[Tensor] = list(self.teacher.parameters())
        student: list[Tensor] = list(self.student.parameters())
        torch._foreach_lerp_(teacher, student, 1 - momentum)
