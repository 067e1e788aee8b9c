"""Colour distortion of a batch of crops: each picture's whole chain is one affine map of RGB.

Brightness, contrast, saturation, hue and grey are affine in (R, G, B), in any order, so they compose to a
[3, 3] matrix and an offset per picture, with one clamp at the end instead of one after each step.
Strengths and order follow SimCLR's jitter as in DINO; hue is a rotation about the grey axis in YIQ, which
keeps the brightness and is affine, where HSV is neither.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

import torch
from torch import Tensor

MeanStd = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of R, G, B in 0..1."""

SOLARIZE_THRESHOLD: Final = 128 / 255
GREY_WEIGHTS: Final = (0.2989, 0.587, 0.114)
"""ITU-R 601 weights of R, G, B in the grey value, as torchvision has them."""

# The two colour rows of YIQ; its third, brightness, is GREY_WEIGHTS.
_INPHASE: Final = (0.5959, -0.2746, -0.3213)
_QUADRATURE: Final = (0.2115, -0.5227, 0.3112)


@dataclass(frozen=True)
class ColourDraw:
    """What was drawn for each of N pictures; neutral values (1, 1, 1, 0) where no jitter is applied."""

    brightness: Tensor
    """[N] factor of the colour."""
    contrast: Tensor
    """[N] factor of the distance from the picture's mean grey."""
    saturation: Tensor
    """[N] factor of the distance from each pixel's own grey."""
    hue: Tensor
    """[N] turn about the grey axis, in whole turns (-0.5 to 0.5)."""
    order: Tensor
    """[N, 4] int64: which of (brightness, contrast, saturation, hue) comes first, second, …"""
    grey: Tensor
    """[N] bool: the colour is taken away at the end."""

    def repeat(self, times: int) -> ColourDraw:
        """The same draw for each of `times` batches of pictures, one after another: [times * N]."""
        drawn = (getattr(self, field.name) for field in fields(self))
        return ColourDraw(*(value.repeat(times, *[1] * (value.ndim - 1)) for value in drawn))

    def to(self, device: torch.device) -> ColourDraw:
        """The same draw on another device."""
        moved = (getattr(self, field.name).to(device, non_blocking=True) for field in fields(self))
        return ColourDraw(*moved)


def draw_colour(
    count: int,
    strengths: tuple[float, float, float, float],
    jitter_probability: float,
    grey_probability: float,
    generator: torch.Generator,
) -> ColourDraw:
    """Draws on the CPU for `count` pictures.

    `strengths` of brightness, contrast, saturation (factor 1 ± strength) and hue (± turns), as torchvision.
    """
    uniform = torch.rand(count, 4, generator=generator) * 2 - 1
    jittered = (torch.rand(count, generator=generator) < jitter_probability).float()
    order = torch.rand(count, 4, generator=generator).argsort(dim=1)
    grey = torch.rand(count, generator=generator) < grey_probability
    change = uniform * torch.tensor(strengths) * jittered[:, None]
    brightness, contrast, saturation, hue = (change + torch.tensor([1.0, 1.0, 1.0, 0.0])).unbind(1)
    return ColourDraw(brightness, contrast, saturation, hue, order, grey)


def _saturation_matrix(factor: Tensor) -> Tensor:
    """[N] -> [N, 3, 3]: factor × colour + (1 - factor) × its grey."""
    grey = factor.new_tensor(GREY_WEIGHTS).expand(3, 3)
    identity = torch.eye(3, device=factor.device)
    return factor[:, None, None] * identity + (1 - factor[:, None, None]) * grey


def _hue_matrix(turns: Tensor) -> Tensor:
    """[N] -> [N, 3, 3]: rotation of the colour plane (I, Q) of YIQ; grey stays. Red goes to yellow first."""
    yiq = torch.tensor((GREY_WEIGHTS, _INPHASE, _QUADRATURE), dtype=torch.float64)
    to_yiq, from_yiq = yiq.to(turns), torch.linalg.inv(yiq).to(turns)
    cosine, sine = (2 * torch.pi * turns).cos(), (2 * torch.pi * turns).sin()
    rotation = torch.eye(3, device=turns.device).repeat(len(turns), 1, 1)
    rotation[:, 1, 1], rotation[:, 1, 2] = cosine, sine
    rotation[:, 2, 1], rotation[:, 2, 2] = -sine, cosine
    turned: Tensor = from_yiq @ rotation @ to_yiq
    return turned


def colour_map(draw: ColourDraw, means: Tensor) -> tuple[Tensor, Tensor]:
    """The whole chain as colour -> matrix @ colour + offset, for colours in 0..1.

    `means` [N, 3]: mean colour of each picture; contrast needs the mean grey that the picture has when its
    turn comes, which is the same affine map of this mean. Returns matrix [N, 3, 3] and offset [N, 3].
    """
    weights = means.new_tensor(GREY_WEIGHTS)
    identity = torch.eye(3, device=means.device)
    steps = torch.stack(  # [N, 4, 3, 3]
        (
            draw.brightness[:, None, None] * identity,
            draw.contrast[:, None, None] * identity,
            _saturation_matrix(draw.saturation),
            _hue_matrix(draw.hue),
        ),
        dim=1,
    )
    towards_mean = torch.zeros_like(draw.hue)[:, None].repeat(1, 4)
    towards_mean[:, 1] = 1 - draw.contrast
    rows = torch.arange(len(means), device=means.device)
    # The mean travels as a fourth column: [N, 3, 3 + offset + mean]
    chain = torch.cat((identity.repeat(len(means), 1, 1), torch.zeros_like(means)[..., None]), dim=2)
    mean = means[..., None]
    for position in range(4):
        chosen = draw.order[:, position]
        step, share = steps[rows, chosen], towards_mean[rows, chosen]
        shift = (share * (weights @ mean[..., 0].T))[:, None, None]  # [N, 1, 1], the same for R, G and B
        chain, mean = step @ chain, step @ mean + shift
        chain[..., 3:] += shift
    last = torch.where(draw.grey[:, None, None], weights.expand(3, 3), identity)
    chain = last @ chain
    return chain[..., :3], chain[..., 3]


def distort_and_normalize(views: Tensor, draw: ColourDraw, mean_std: MeanStd) -> Tensor:
    """[N, 3, H, W] in 0..255 -> the same, distorted, clamped to 0..1 and normalised; fp32 or lower.

    The scale 1/255 and the normalisation are folded into the map, and the clamp into normalised bounds.
    """
    device = views.device
    mean, std = (torch.tensor(values, device=device) for values in mean_std)
    flat = views.flatten(2)
    matrix, offset = colour_map(draw.to(device), flat.mean(dim=2, dtype=torch.float32) / 255)
    matrix = matrix / (255 * std[:, None])
    offset = (offset - mean) / std
    mixed = torch.baddbmm(offset[..., None].to(flat.dtype), matrix.to(flat.dtype), flat).view_as(views)
    for channel, (middle, spread) in enumerate(zip(*mean_std, strict=True)):
        mixed[:, channel].clamp_(-middle / spread, (1 - middle) / spread)
    return mixed


def solarize(views: Tensor, chosen: Tensor, mean_std: MeanStd) -> None:
    """Inverts, in place, what is at least the threshold in the `chosen` [N] bool of normalised views."""
    mean, std = (torch.tensor(values, device=views.device).view(3, 1, 1) for values in mean_std)
    where = chosen.nonzero().squeeze(1).to(views.device)
    picked = views[where]  # [k, 3, H, W]
    inverted = (1 - 2 * mean) / std - picked
    views.index_copy_(
        0, where, torch.where(picked >= (SOLARIZE_THRESHOLD - mean) / std, inverted, picked).to(views.dtype)
    )
