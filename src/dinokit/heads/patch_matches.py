"""How much two pictures have in common, patch by patch: the share of patches that choose each other.

Where two vectors of whole pictures say that these are alike, mutual nearest patches say whether the parts are too
(Amir et al. 2021, "Deep ViT features as dense visual descriptors", best buddies).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def patch_similarity(first: Tensor, second: Tensor) -> float:
    """The number of mutual nearest patches of [N, D] and [M, D], for each patch of the smaller set: 0 to 1.

    1 for equal pictures. Measured on training pictures, the share alone ranks better than the sum of their cosines.
    """
    cosines = F.normalize(first.float(), dim=-1) @ F.normalize(second.float(), dim=-1).T  # [N, M]
    partner, back = cosines.argmax(1), cosines.argmax(0)
    mutual = back[partner] == torch.arange(len(first), device=first.device)
    return int(mutual.sum()) / min(len(first), len(second))
