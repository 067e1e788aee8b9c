"""The heads of pretraining: an MLP to a narrow bottleneck, and prototypes that score it.

The bottleneck is L2-normalised and the last layer has neither bias nor weight normalisation, as published. In
small runs prototypes of unit length (an option) keep the targets from staying uniform for the first hours.
Source: DINO (arXiv 2104.14294, appendix C), DINOv3 (arXiv 2508.10104, section 3.2).
"""

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional


def build_mlp(in_dim: int, hidden_dim: int, out_dim: int, layers: int) -> nn.Module:
    """`layers` linear layers with exact GELU between them; one layer is a plain nn.Linear.

    Weights: truncated normal 0.02; biases: zero. Raises ValueError where layers < 1.
    """
    if layers < 1:
        raise ValueError(f"a head needs at least 1 layer, got {layers}")
    widths = [in_dim, *[hidden_dim] * (layers - 1), out_dim]
    modules: list[nn.Module] = []
    for before, after in pairwise(widths):
        linear = nn.Linear(before, after)
        nn.init.trunc_normal_(linear.weight, std=0.02)
        nn.init.zeros_(linear.bias)
        modules += [linear, nn.GELU()]
    return modules[0] if layers == 1 else nn.Sequential(*modules[:-1])


class PrototypeHead(nn.Module):
    """[..., in_dim] tokens -> [..., prototypes] scores. Keys: `mlp.0`, `mlp.2`, `mlp.4`, `last_layer`."""

    def __init__(
        self,
        in_dim: int,
        prototypes: int,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        layers: int = 3,
        unit_prototypes: bool = False,
    ) -> None:
        super().__init__()
        self.mlp = build_mlp(in_dim, hidden_dim, bottleneck_dim, layers)
        self.last_layer = nn.Linear(bottleneck_dim, prototypes, bias=False)
        nn.init.trunc_normal_(self.last_layer.weight, std=0.02)
        self.unit_prototypes = unit_prototypes

    def embed(self, tokens: Tensor) -> Tensor:
        """[..., in_dim] -> [..., bottleneck_dim] of unit length: what the prototypes are compared with."""
        bottleneck = cast(Tensor, self.mlp(tokens))
        epsilon = 1e-6 if bottleneck.dtype == torch.float16 else 1e-12
        return functional.normalize(bottleneck, dim=-1, eps=epsilon)

    def forward(self, tokens: Tensor) -> Tensor:
        """[..., in_dim] -> scores [..., prototypes]; cosines where `unit_prototypes`."""
        prototypes: Tensor = self.last_layer.weight  # [K, bottleneck_dim]
        if self.unit_prototypes:
            prototypes = functional.normalize(prototypes, dim=-1)
        return functional.linear(self.embed(tokens), prototypes)


class ProjectionHead(nn.Module):
    """[N, in_dim] tokens -> [N, out_dim] projections, not normalised: for the coding-rate objective.

    Hidden layers are batch normalised, always by the batch itself: views of all kinds together. The class token learns
    about twice as fast so (experiments/learning-speed). Weights as PyTorch draws them. Raises ValueError where
    layers < 1.
    """

    def __init__(self, in_dim: int, hidden_dim: int = 2048, out_dim: int = 256, layers: int = 3) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"a head needs at least 1 layer, got {layers}")
        hidden: list[nn.Module] = []
        widths = [in_dim, *[hidden_dim] * (layers - 1)]
        for before, after in pairwise(widths):
            hidden += [nn.Linear(before, after), nn.BatchNorm1d(after, track_running_stats=False), nn.GELU()]
        self.mlp = nn.Sequential(*hidden, nn.Linear(widths[-1], out_dim))

    def forward(self, tokens: Tensor) -> Tensor:
        """[N, in_dim] -> [N, out_dim]."""
        return cast(Tensor, self.mlp(tokens))
