"""How much two pictures have in common, patch by patch: cosines of patches that choose each other.

Where two vectors of whole pictures say that these are alike, mutual nearest patches say whether the parts are too
(Amir et al. 2021, "Deep ViT features as dense visual descriptors", best buddies).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def patch_similarity(first: Tensor, second: Tensor) -> float:
    """The sum of the cosines of mutual nearest patches of [N, D] and [M, D], for each patch of the smaller set.

    1 for equal pictures, near 0 for pictures without anything in common.
    """
    cosines = F.normalize(first.float(), dim=-1) @ F.normalize(second.float(), dim=-1).T  # [N, M]
    best, partner = cosines.max(1)
    back = cosines.argmax(0)
    mutual = back[partner] == torch.arange(len(first), device=first.device)
    return float(best[mutual].sum()) / min(len(first), len(second))
