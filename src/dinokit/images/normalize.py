"""From uint8 pictures to the numbers that a network was trained on.

The published weights come with two sets of statistics: web photographs (LVD-1689M) and satellite pictures
(SAT-493M). Scaling by 1/255, subtracting the mean and dividing by the deviation are one multiply-add.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of each channel (red, green and blue, or as many as there are), for values 0 to 1."""

    mean: tuple[float, ...]
    """Subtracted from each channel."""
    std: tuple[float, ...]
    """Divides each channel afterwards; above 0."""


IMAGENET = Statistics(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
SATELLITE = Statistics(mean=(0.430, 0.411, 0.296), std=(0.213, 0.156, 0.143))


def normalize(pictures: Tensor, statistics: Statistics, dtype: torch.dtype = torch.float32) -> Tensor:
    """Turn uint8 [B, 3, H, W] into (pictures / 255 - mean) / std of `dtype`, on the same device."""
    mean = torch.tensor(statistics.mean, dtype=torch.float64)
    std = torch.tensor(statistics.std, dtype=torch.float64)
    scale = (1 / (255 * std)).to(pictures.device, dtype)[:, None, None]  # [3, 1, 1]
    shift = (-mean / std).to(pictures.device, dtype)[:, None, None]
    return torch.addcmul(shift, pictures.to(dtype), scale)
