"""Gram anchoring: keeps the similarities between a picture's patches as they were in an earlier teacher.

Only the similarity matrices are compared, so the features themselves stay free to move. Targets on another
grid (the Gram teacher sees larger crops) are first resized to the student's.
Source: DINOv3 (arXiv 2508.10104, section 4.2).
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Negatives = Literal["keep", "remove", "remove_target", "remove_common"]
"""Negative similarities: `keep` them; `remove`: 0 on both sides; `remove_target`: 0 in the target only (what
the published option `remove_only_teacher_neg` does); `remove_common`: 0 in the target, and 0 in the student
where both were negative (what that option was meant to do)."""


def gram_loss(
    student: Tensor,
    target: Tensor,
    *,
    normalize: bool = True,
    per_image: bool = True,
    negatives: Negatives = "keep",
) -> Tensor:
    """Mean squared difference of the patch similarity matrices; a float32 scalar.

    student, target: [B, N, D], or [M, D] for tokens of the whole batch (then per_image must be False).
    per_image compares the patches within each picture, otherwise all patches of the batch with one another.
    Raises ValueError where shapes differ or do not fit `per_image`.
    """
    if student.shape != target.shape or student.ndim not in (2, 3) or (per_image and student.ndim != 3):
        raise ValueError(
            f"Gram loss needs equal shapes [B, N, D] (or [M, D] with per_image=False), "
            f"got {tuple(student.shape)} and {tuple(target.shape)}"
        )
    with torch.autocast(student.device.type, enabled=False):
        student_gram = _similarities(student.float(), normalize, per_image)
        target_gram = _similarities(target.float(), normalize, per_image)
        if negatives == "remove":
            student_gram = student_gram.clamp_min(0)
        elif negatives == "remove_common":
            student_gram = student_gram.masked_fill((student_gram < 0) & (target_gram < 0), 0)
        if negatives != "keep":
            target_gram = target_gram.clamp_min(0)
        return functional.mse_loss(student_gram, target_gram)


def resize_target(
    target: Tensor,
    grid: tuple[int, int],
    student_grid: tuple[int, int],
    *,
    method: Literal["bicubic", "bilinear"] = "bicubic",
    antialias: bool = False,
) -> Tensor:
    """Patch tokens [B, h*w, D] on `grid` (h, w) -> [B, h'*w', D] on `student_grid`, per channel, float32."""
    if grid == student_grid:
        return target.float()
    maps = target.float().reshape(len(target), *grid, -1).permute(0, 3, 1, 2)  # [B, h*w, D] -> [B, D, h, w]
    maps = functional.interpolate(maps, size=student_grid, mode=method, align_corners=False, antialias=antialias)
    return maps.flatten(2).transpose(1, 2)  # [B, D, h', w'] -> [B, h'*w', D]


def _similarities(tokens: Tensor, normalize: bool, per_image: bool) -> Tensor:
    if normalize:
        tokens = functional.normalize(tokens, dim=-1)
    if not per_image:
        tokens = tokens.reshape(-1, tokens.shape[-1])  # [B, N, D] -> [B*N, D]
    return tokens @ tokens.mT  # [..., N, D] -> [..., N, N]
