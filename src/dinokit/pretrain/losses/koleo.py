"""KoLeo: spreads the features of a batch by pushing each one away from its nearest neighbour.

The choice of the neighbour carries no gradient, the distance does at both ends. The two small constants are
those of the published code (one added to every coordinate), so that equal rows give the same finite loss.
Source: Sablayrolles et al. 2019 (arXiv 1806.03198, section 3.1); DINOv3 (arXiv 2508.10104, section 3.2).
"""

import torch
from torch import Tensor
from torch.nn import functional

_EPSILON = 1e-8


def koleo_loss(features: Tensor, neighbours: int = 1) -> Tensor:
    """- mean log distance to the nearest `neighbours` rows, after L2 normalisation; a float32 scalar.

    features: [B, D], one view of B pictures. Raises ValueError unless 1 <= neighbours < B.
    """
    batch = len(features)
    if not 1 <= neighbours < batch:
        raise ValueError(f"KoLeo with {neighbours} neighbours needs more than {neighbours} pictures, got {batch}")
    with torch.autocast(features.device.type, enabled=False):
        unit = functional.normalize(features.float(), dim=-1, eps=_EPSILON)
        with torch.no_grad():
            similarity = (unit @ unit.T).fill_diagonal_(-1)
            # [B, B] -> [B, n]; argmax takes the first of equal neighbours, topk takes any
            nearest = similarity.argmax(1, keepdim=True)
            if neighbours > 1:
                nearest = similarity.topk(neighbours, dim=1).indices
        difference = unit[:, None] - unit[nearest] + _EPSILON  # [B, n, D]
        return -torch.log(difference.norm(dim=-1) + _EPSILON).mean()
