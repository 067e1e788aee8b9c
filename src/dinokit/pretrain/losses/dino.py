"""DINO loss: the student's class-token views predict the teacher's assignments of other views.

Cross entropy is linear in the target and in the student's log-probabilities, so the mean over all pairs of
views is one product of two sums over views; the pairs are never formed ([S, T, B, K] would be gigabytes).
Source: DINO (arXiv 2104.14294, equation 3), as used in DINOv3 (arXiv 2508.10104, section 3.2).
"""

import torch
from torch import Tensor


def pair_count(student_views: int, teacher_views: int, ignore_diagonal: bool) -> int:
    """Number of (student, teacher) pairs of views; ValueError where none is left."""
    pairs = student_views * teacher_views
    if ignore_diagonal:
        pairs -= min(student_views, teacher_views)
    if pairs <= 0:
        raise ValueError(f"{student_views} student and {teacher_views} teacher views leave no pair of different views")
    return pairs


def dino_loss(
    student_logits: Tensor,
    teacher_probabilities: Tensor,
    *,
    temperature: float = 0.1,
    ignore_diagonal: bool = False,
) -> Tensor:
    """Mean cross entropy over all pairs (student view, teacher view) and pictures; a float32 scalar.

    student_logits: [S, B, K]; teacher_probabilities: [T, B, K]; `temperature` divides the student's scores.
    ignore_diagonal leaves out the pairs whose view has the same number on both sides (the same crop).
    Raises ValueError where no pair is left.
    """
    views, batch = student_logits.shape[:2]
    pairs = pair_count(views, len(teacher_probabilities), ignore_diagonal)
    log_probabilities = (student_logits.float() / temperature).log_softmax(dim=-1)
    targets = teacher_probabilities.float()
    # sum over views first: [S, B, K] -> [B, K], [T, B, K] -> [B, K]
    agreement = torch.sum(log_probabilities.sum(0) * targets.sum(0))
    if ignore_diagonal:
        same = min(views, len(targets))
        agreement = agreement - torch.sum(log_probabilities[:same] * targets[:same])
    return -agreement / (batch * pairs)
