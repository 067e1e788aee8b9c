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
from dinokit.pretrain.objectives import Heads, Losses, Objective, Views


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

    def forward(self, crops: Crops, masks: MaskBatch, step: int) -> tuple[Losses, Views]:
        """The losses of one batch, and the teacher's views for the monitor."""
        matches = self._match(crops) if self.objective.matches_crops(step) else no_matches(masks.indices.device)
        with torch.no_grad():
            teacher = self._views(self.teacher.backbone, crops.global_views, masks, matches, hide=False)
            targets = self.objective.targets(self.teacher.heads, teacher, step)
        student = self._views(
            self.student.backbone, crops.global_views, masks, matches, hide=True, local=crops.local_views
        )
        return self.objective.losses(self.student.heads, student, targets, step), teacher

    def _views(
        self,
        backbone: VisionTransformer,
        global_views: Tensor,
        masks: MaskBatch,
        matches: Matches,
        *,
        hide: bool,
        local: Tensor | None = None,
    ) -> Views:
        count, batch = global_views.shape[:2]
        seen = backbone(global_views.flatten(0, 1), masks.masks if hide else None)
        patches = seen.tokens  # [2B, N, D]
        return Views(
            global_cls=seen.cls.unflatten(0, (count, batch)),  # [2B, D] -> [2, B, D]
            masked_patches=patches.flatten(0, 1)[masks.indices],  # [M, D]
            matched_patches=matches.own(patches) if hide else matches.other(patches),  # [K, D]
            mask_weights=masks.weights,
            mask_rows=count * batch,
            local_cls=None if local is None else self._local(backbone, local),
        )

    def _match(self, crops: Crops) -> Matches:
        patch = self.student.backbone.spec.patch_size
        grid = (crops.global_views.shape[-2] // patch, crops.global_views.shape[-1] // patch)
        return match_patches(crops.global_boxes, crops.global_flips, grid).to(crops.global_views.device)

    @staticmethod
    def _local(backbone: VisionTransformer, local: Tensor) -> Tensor:
        """[n, B, 3, H, W] -> class tokens [n, B, D]."""
        if not len(local):
            return local.new_empty(0, local.shape[1], backbone.spec.width)
        cls: Tensor = backbone(local.flatten(0, 1), local=True).cls
        views: Tensor = cls.unflatten(0, local.shape[:2])
        return views

    @torch.no_grad()
    def update_teacher(self, momentum: float) -> None:
        """teacher = momentum * teacher + (1 - momentum) * student, parameters only."""
        teacher: list[Tensor] = list(self.teacher.parameters())
        student: list[Tensor] = list(self.student.parameters())
        torch._foreach_lerp_(teacher, student, 1 - momentum)
