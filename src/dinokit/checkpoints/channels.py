"""Networks for pictures of another number of channels, made by changing their first convolution."""

from __future__ import annotations

import torch
from torch import Tensor

from dinokit.checkpoints.layouts.tables import State
from dinokit.checkpoints.model import ModelInfo
from dinokit.images.normalize import Statistics

_FIRST = ("patch_embed.proj", "downsample_layers.0.0")
"""The first convolution of a ViT, and of a ConvNeXt."""


def fit_channels(state: State, before: ModelInfo, after: ModelInfo) -> dict[str, Tensor]:
    """Weights for pictures of `after.spec.in_channels` channels from those for `before.spec.in_channels`.

    One channel: a grey picture gives exactly the features that it gave as equal channels, each normalised by its own
    statistics. Several: the weights are repeated in the order of the channels and scaled by (old / new number), so
    that the sum over the channels keeps its size (as timm does).
    """
    if before.spec.in_channels == after.spec.in_channels:
        return dict(state)
    name = next(name for name in _FIRST if f"{name}.weight" in state)
    weight, bias = state[f"{name}.weight"].float(), state[f"{name}.bias"].float()
    if after.spec.in_channels == 1:
        weight, bias = _fold(weight, bias, before.statistics, after.statistics)
    else:
        weight = _repeat(weight, after.spec.in_channels)
    return {**state, f"{name}.weight": weight, f"{name}.bias": bias}


def _fold(weight: Tensor, bias: Tensor, before: Statistics, after: Statistics) -> tuple[Tensor, Tensor]:
    """weight [D, C, k, k] -> [D, 1, k, k] such that (x - m) / s stands for all (x - m_c) / s_c; bias [D]."""
    (mean,), (std,) = after.mean, after.std
    means, stds = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (before.mean, before.std))
    exact = weight.double()
    folded = (exact * std / stds).sum(dim=1, keepdim=True)
    moved = (exact * (mean - means) / stds).sum(dim=(1, 2, 3))
    return folded.float(), (bias.double() + moved).float()


def _repeat(weight: Tensor, channels: int) -> Tensor:
    """weight [D, C, k, k] -> [D, N, k, k]."""
    own = weight.shape[1]
    order = torch.arange(channels) % own
    return weight[:, order] * (own / channels)
