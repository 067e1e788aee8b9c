"""Teacher targets from prototype scores: Sinkhorn-Knopp, and the older centred softmax.

Sinkhorn-Knopp (SwAV, Caron 2020, section 3.1; DINOv3, arXiv 2508.10104, section 3.2) balances the batch:
every prototype gets the same mass, every sample mass one. Written with two scaling vectors instead of
rewriting the matrix: each half iteration is one matrix-vector product, nothing of size [N, K] is written,
and with each row's own maximum taken out first neither overflow nor 0/0 can happen.
"""

import torch
from torch import Tensor

_SMALLEST_MASS = 1e-32
"""Floor for a prototype's mass: its inverse, summed over a million prototypes, still fits into float32."""


@torch.no_grad()
def sinkhorn_knopp(logits: Tensor, temperature: float, iterations: int = 3) -> Tensor:
    """Balanced soft assignments of N samples to K prototypes.

    logits: [N, K] of any float type; N may be 0. Returns float32 [N, K], rows sum to 1, no gradient.
    Raises ValueError where iterations < 1 or temperature <= 0.
    """
    if iterations < 1 or temperature <= 0:
        raise ValueError(f"iterations {iterations} must be >= 1 and temperature {temperature} > 0")
    if logits.shape[0] == 0:
        return logits.float()
    with torch.autocast(logits.device.type, enabled=False):
        scores = logits.float() / temperature
        largest = scores.amax(dim=1)  # [N, K] -> [N]
        kernel = (scores - largest[:, None]).exp_()  # [N, K], the largest entry of each row is 1
        sample_scale = (largest - largest.max()).exp()  # [N]
        for _ in range(iterations):
            prototype_scale = 1 / (kernel.T @ sample_scale).clamp_min(_SMALLEST_MASS)  # [K]
            sample_scale = 1 / (kernel @ prototype_scale)  # [N]
        return kernel.mul_(prototype_scale).mul_(sample_scale[:, None])
