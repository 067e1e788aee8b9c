"""From uint8 pictures to the numbers that a network was trained on.

The published weights come with two sets of statistics: web photographs (LVD-1689M) and satellite pictures
(SAT-493M). Scaling by 1/255, subtracting the mean and dividing by the deviation are one multiply-add.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dinokit.errors import UserError


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of each channel (red, green, blue, where there are three), for values from 0 to 1."""

    mean: tuple[float, ...]
    """Subtracted from each channel."""
    std: tuple[float, ...]
    """Divides each channel afterwards; above 0."""

    @property
    def grey(self) -> tuple[int, ...]:
        """The uint8 value of each channel that comes nearest to 0 when normalised: what padding is filled with."""
        return tuple(min(max(round(255 * mean), 0), 255) for mean in self.mean)


IMAGENET = Statistics(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
SATELLITE = Statistics(mean=(0.430, 0.411, 0.296), std=(0.213, 0.156, 0.143))


def normalize(pictures: Tensor, statistics: Statistics, dtype: torch.dtype = torch.float32) -> Tensor:
    """Turn uint8 [B, C, H, W] into (pictures / 255 - mean) / std of `dtype`, on the same device.

    Raises `UserError` where the statistics are those of another number of channels.
    """
    return _scale_and_shift(pictures.to(dtype), statistics, white=255)


def standardize(pictures: Tensor, statistics: Statistics) -> Tensor:
    """Turn floats [B, C, H, W] from 0 to 1 into (pictures - mean) / std."""
    return _scale_and_shift(pictures, statistics, white=1)


def _scale_and_shift(pictures: Tensor, statistics: Statistics, white: int) -> Tensor:
    channels, known = pictures.shape[-3], len(statistics.mean)
    if channels != known:
        hint = "give pictures of as many channels, or the model as many numbers as mean and std"
        raise UserError(f"pictures of {channels} channels meet statistics of {known}", hint)
    mean = torch.tensor(statistics.mean, dtype=torch.float64)
    std = torch.tensor(statistics.std, dtype=torch.float64)
    scale = (1 / (white * std)).to(pictures.device, pictures.dtype)[:, None, None]  # [C, 1, 1]
    shift = (-mean / std).to(pictures.device, pictures.dtype)[:, None, None]
    return torch.addcmul(shift, pictures, scale)
