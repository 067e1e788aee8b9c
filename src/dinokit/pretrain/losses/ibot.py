"""iBOT loss: the student predicts, at masked patches, the teacher's assignment of the unmasked picture.

Only masked tokens come in, flattened over the batch, since the head is the expensive part. Each row's tokens
share the weight 1 (weight = 1 / its masked tokens), and rows without a mask still count in the divisor.
Source: iBOT (arXiv 2111.07832, equation 3), as used in DINOv3 (arXiv 2508.10104, section 3.2).
"""

import torch
from torch import Tensor


def ibot_loss(
    student_logits: Tensor,
    teacher_probabilities: Tensor,
    weights: Tensor,
    rows: int,
    *,
    temperature: float = 0.1,
) -> Tensor:
    """Weighted cross entropy of M masked tokens divided by `rows`; a float32 scalar (0 where M = 0).

    student_logits, teacher_probabilities: [M, K]; weights: [M]; rows: rows of the mask table, masked or not.
    A loss over full maps [B, N, K] is this one on `logits[masks]` with weights 1 / masked tokens.
    """
    log_probabilities = (student_logits.float() / temperature).log_softmax(dim=-1)
    per_token = torch.sum(log_probabilities * teacher_probabilities.float(), dim=-1)  # [M, K] -> [M]
    return -torch.sum(per_token * weights) / rows
