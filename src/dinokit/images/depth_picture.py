"""Depth as a picture for people: near is bright, with a scale in metres below."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from dinokit.images.draw import Pixels, beside, ramp

_MARKS = 4
_NARROWEST = 160
_INK, _PAPER = (38, 38, 38), (255, 255, 255)


def draw_depth(depth: NDArray[Any], picture: Pixels) -> Pixels:
    """`picture` and its depth in metres [H, W] beside each other, uint8 [h, w, 3]; NaN is grey.

    The colours go from the 2nd to the 98th hundredth of the depths.
    """
    known = depth[np.isfinite(depth)]
    near, far = np.percentile(known, [2, 98]) if len(known) else (0.0, 1.0)
    if depth.shape[1] < _NARROWEST:  # the scale needs room
        times = -(-_NARROWEST // depth.shape[1])
        depth, picture = (values.repeat(times, axis=0).repeat(times, axis=1) for values in (depth, picture))
    pair = beside([picture, _colour(depth, near, far)])
    scale = _draw_scale(float(near), float(far), depth.shape[1], max(min(depth.shape) // 22, 14))
    space = np.full((scale.shape[0], pair.shape[1] - scale.shape[1], 3), 255, dtype=np.uint8)
    return np.concatenate([pair, np.concatenate([space, scale], axis=1)])


def _colour(depth: NDArray[Any], near: float, far: float) -> Pixels:
    return ramp(-depth, -far, -near)


def _draw_scale(near: float, far: float, width: int, size: int) -> Pixels:
    """A bar of the colours from `near` to `far`, with marks in metres: [h, width, 3]; letters of `size` pixels."""
    font = ImageFont.load_default(size)
    page = Image.new("RGB", (width, round(3.4 * size)), _PAPER)
    edge = 2 * size
    bar = _colour(np.linspace(near, far, width - 2 * edge)[None].repeat(size, axis=0), near, far)
    page.paste(Image.fromarray(bar), (edge, size // 2))
    pen = ImageDraw.Draw(page)
    for metres in _marks(near, far):
        x = edge + (metres - near) / max(far - near, 1e-12) * (width - 2 * edge - 1)
        pen.line([x, size * 1.5, x, size * 1.8], fill=_INK)
        pen.text((x, size * 1.9), f"{metres:.6g} m", fill=_INK, font=font, anchor="ma")
    return np.array(page)


def _marks(near: float, far: float) -> list[float]:
    """Round numbers from `near` to `far`, about four; `near` itself where all is one depth."""
    wanted = (far - near) / _MARKS
    if wanted < 1e-6:
        return [round(near, 3)]
    power = 10 ** math.floor(math.log10(wanted))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= wanted)
    return [n * step for n in range(math.ceil(near / step), math.floor(far / step) + 1)]
