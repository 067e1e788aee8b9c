"""Depth as a weighted mean of fixed depths, the bins (AdaBins, CVPR 2021; as published for DINOv2 and DINOv3).

A head gives one number for each bin. Weights are those numbers, cut at zero and raised by a floor, over their sum: no
softmax, so a head that says nothing gives the mean of the bins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from dinokit.errors import UserError
from dinokit.heads.dense import Maps
from dinokit.inference.precision import has_bfloat16

Range = tuple[float, float]
"""The least and the greatest depth in metres."""

_FLOOR = 0.1
"""Added to every linear weight: no bin is ever wholly out."""


@dataclass(frozen=True)
class DepthBins:
    """How the outputs of a head become metres."""

    count: int = 256
    """Outputs of the head. With 1 there are no bins: the depth is that output, cut at zero, plus the least depth."""
    range: Range = (0.001, 10.0)
    spacing: Literal["linear", "log"] = "linear"
    """Whether neighbouring bins are the same distance or the same factor apart."""
    weighting: Literal["linear", "softmax", "sigmoid"] = "linear"

    def __post_init__(self) -> None:
        low, high = self.range
        if not 0 < low < high < math.inf:
            raise UserError(f"range is {self.range}", "give the least and the greatest depth in metres, (0.001, 10)")

    def centres(self) -> Tensor:
        """The depths of the bins, in metres: [count]."""
        low, high = self.range
        if self.spacing == "log":
            return torch.linspace(math.log(low), math.log(high), self.count).exp()
        return torch.linspace(low, high, self.count)

    def to_depth(self, outputs: Tensor) -> Tensor:
        """Outputs [B, count, h, w] of a head -> metres [B, 1, h, w]."""
        if self.count == 1:
            return outputs.relu() + self.range[0]
        if self.weighting == "softmax":
            weights = outputs.softmax(dim=1)
        else:
            weights = outputs.sigmoid() if self.weighting == "sigmoid" else outputs.relu() + _FLOOR
        centres = self.centres().to(outputs)
        return torch.einsum("bchw,c->bhw", weights, centres)[:, None] / weights.sum(dim=1, keepdim=True)


class BinnedDepth(nn.Module):
    """A head with the conversion of its outputs: maps of the layers -> metres [B, 1, h, w].

    The depth is resized to the picture afterwards, not the outputs, as published.
    """

    def __init__(self, network: nn.Module, bins: DepthBins) -> None:
        super().__init__()
        self.network, self.bins = network, bins

    def forward(self, maps: Maps) -> Tensor:
        return self.bins.to_depth(self.network(maps))

    def learn(self, maps: Maps) -> Tensor:
        """The same while it learns: the network in bfloat16 where that is native, the metres in float32."""
        device = next(self.network.parameters()).device
        with torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16(device)):
            outputs = self.network(maps)
        return self.bins.to_depth(outputs.float())
