"""Pictures for people: colours for classes and numbers, masks over photos, boxes, corresponding points, sheets.

Everything gives uint8 [H, W, 3], and takes pictures of any channels; positions are pixels (x, y) with centres at .5.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pixels = NDArray[np.uint8]
Colour = tuple[int, int, int]

_GOLDEN = 0.618033988749895  # hues this far apart never come close to each other
_RAMP = np.array(  # dark violet to yellow, evenly brighter: readable in grey and for the colour-blind
    [[13, 8, 60], [66, 10, 104], [129, 32, 108], [190, 55, 82], [233, 97, 45], [251, 160, 20], [247, 226, 85]],
    dtype=np.float64,
)
_INK, _PAPER = (38, 38, 38), (255, 255, 255)


@lru_cache
def palette(count: int) -> Pixels:
    """Colours for `count` classes, [count, 3], far apart for neighbours."""
    colours = []
    for i in range(count):
        value, saturation = ((0.95, 0.70), (0.75, 0.90), (0.60, 0.55))[i % 3]
        colours.append(colorsys.hsv_to_rgb((0.58 + i * _GOLDEN) % 1, saturation, value))
    return np.round(np.array(colours).reshape(count, 3) * 255).astype(np.uint8)


def ramp(values: NDArray[Any], low: float | None = None, high: float | None = None) -> Pixels:
    """Numbers [H, W] as colours [H, W, 3], from dark violet (`low`) to yellow; NaN is grey.

    Without bounds, from the 2nd to the 98th hundredth of the values.
    """
    numbers = np.asarray(values, dtype=np.float64)
    known = numbers[np.isfinite(numbers)]
    bounds = np.percentile(known, [2, 98]) if len(known) else np.array([0.0, 1.0])
    low, high = bounds[0] if low is None else low, bounds[1] if high is None else high
    place = np.clip((np.nan_to_num(numbers, nan=low) - low) / max(high - low, 1e-12), 0, 1) * (len(_RAMP) - 1)
    steps = np.arange(len(_RAMP))
    colours = np.stack([np.interp(place, steps, _RAMP[:, c]) for c in range(3)], axis=-1)
    colours[~np.isfinite(numbers)] = 128
    return np.round(colours).astype(np.uint8)


def in_colour(picture: Pixels) -> Pixels:
    """A picture [H, W, C] as one of three channels: one is grey, of more than three the first are shown."""
    return np.repeat(picture[..., :1], 3, axis=-1) if picture.shape[-1] < 3 else picture[..., :3]


def blend(picture: Pixels, colours: Pixels, share: float | NDArray[Any] = 0.55) -> Pixels:
    """`colours` [H, W, 3] laid over `picture`; share: of the colours, one number or one a pixel [H, W]."""
    weight = np.asarray(share, dtype=np.float32)
    weight = weight[..., None] if weight.ndim else weight
    mixed = in_colour(picture).astype(np.float32) * (1 - weight) + colours.astype(np.float32) * weight
    return np.asarray(np.round(mixed), dtype=np.uint8)


def draw_labels(labels: NDArray[Any], count: int, picture: Pixels) -> Pixels:
    """A label map [H, W] of classes 0 to count - 1 in their colours over `picture`."""
    return blend(picture, palette(count)[np.clip(labels, 0, count - 1)], 0.6)


def draw_boxes(picture: Pixels, boxes: Sequence[Sequence[float]]) -> Pixels:
    """Boxes (x0, y0, x1, y1) in pixels, each in a colour of its own."""
    image = Image.fromarray(in_colour(picture))
    pen = ImageDraw.Draw(image)
    width = max(round(min(image.size) / 160), 2)
    for box, colour in zip(boxes, palette(len(boxes)), strict=True):
        pen.rectangle([float(side) for side in box], outline=tuple(int(c) for c in colour), width=width)
    return np.array(image)


def draw_points(picture: Pixels, points: NDArray[Any], colours: Pixels | None = None) -> Pixels:
    """Points [N, 2] (x, y) as dots with a white rim; colours [N, 3], or one each."""
    image = Image.fromarray(in_colour(picture))
    _dot(ImageDraw.Draw(image), points, palette(len(points)) if colours is None else colours, min(image.size))
    return np.array(image)


def draw_pairs(first: Pixels, second: Pixels, starts: NDArray[Any], ends: NDArray[Any], good: Any = None) -> Pixels:
    """Two pictures side by side with lines from starts [N, 2] in the one to ends [N, 2] in the other.

    good: bool [N]; those that are not are thin and grey, below the others.
    """
    gap = max(first.shape[1] // 80, 4)
    height = max(first.shape[0], second.shape[0])
    canvas = np.full((height, first.shape[1] + gap + second.shape[1], 3), 255, dtype=np.uint8)
    canvas[: first.shape[0], : first.shape[1]] = in_colour(first)
    canvas[: second.shape[0], first.shape[1] + gap :] = in_colour(second)
    image = Image.fromarray(canvas)
    pen = ImageDraw.Draw(image)
    kept = np.ones(len(starts), dtype=bool) if good is None else np.asarray(good, dtype=bool)
    shifted = np.asarray(ends, dtype=float) + np.array([first.shape[1] + gap, 0])
    colours = palette(max(len(starts), 1))
    for i in sorted(range(len(starts)), key=lambda i: bool(kept[i])):
        colour = tuple(int(c) for c in colours[i]) if kept[i] else (150, 150, 150)
        pen.line([*map(float, starts[i]), *map(float, shifted[i])], fill=colour, width=2 if kept[i] else 1)
    _dot(pen, np.asarray(starts)[kept], colours[: len(starts)][kept], height)
    _dot(pen, shifted[kept], colours[: len(starts)][kept], height)
    return np.array(image)


def sheet(pictures: Sequence[Pixels], captions: Sequence[str] = (), columns: int = 4, side: int = 224) -> Pixels:
    """Pictures on one page, each fitted into a square of `side` pixels, with a caption below."""
    columns = max(min(columns, len(pictures)), 1)
    line, gap = side // 11, side // 20
    below = line * max((caption.count("\n") + 1 for caption in captions), default=0)
    rows = -(-len(pictures) // columns)
    page = Image.new("RGB", (columns * (side + gap) + gap, rows * (side + below + gap) + gap), _PAPER)
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(max(line * 0.75, 9))
    for i, picture in enumerate(pictures):
        x, y = gap + i % columns * (side + gap), gap + i // columns * (side + below + gap)
        image = Image.fromarray(thumbnail(picture, side))
        page.paste(image, (x + (side - image.width) // 2, y + (side - image.height) // 2))
        if i < len(captions):
            pen.multiline_text((x, y + side), _fit(pen, captions[i], side, font), fill=_INK, font=font, spacing=1)
    return np.array(page)


def thumbnail(picture: Pixels, side: int) -> Pixels:
    """The picture, reduced where it is larger so that it fits into a square of `side` pixels."""
    image = Image.fromarray(in_colour(picture))
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.array(image)


def beside(pictures: Sequence[Pixels], gap: int = 8) -> Pixels:
    """Pictures of one height beside each other, with white between them."""
    space = np.full((pictures[0].shape[0], gap, 3), 255, dtype=np.uint8)
    return np.concatenate([part for picture in pictures for part in (in_colour(picture), space)][:-1], axis=1)


def legend(names: Sequence[str], colours: Pixels, width: int) -> Pixels:
    """Names, each after a square of its colour, in rows as wide as `width`: [h, width, 3]."""
    size = max(width // 45, 12)
    font = ImageFont.load_default(size)
    pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    places, x, y = [], size // 2, size // 2
    for name in names:
        step = int(pen.textlength(name, font=font)) + 3 * size
        if x + step > width and x > size:
            x, y = size // 2, y + 2 * size
        places.append((x, y))
        x += step
    page = Image.new("RGB", (width, y + 2 * size), _PAPER)
    pen = ImageDraw.Draw(page)
    for name, colour, (x, y) in zip(names, colours, places, strict=True):
        pen.rectangle([x, y, x + size, y + size], fill=tuple(int(c) for c in colour))
        pen.text((x + 1.5 * size, y - size * 0.1), name, fill=_INK, font=font)
    return np.array(page)


def _fit(pen: ImageDraw.ImageDraw, text: str, width: int, font: Any) -> str:
    """Each line cut to `width` pixels."""
    lines = []
    for line in text.split("\n"):
        cut = line
        while cut and pen.textlength(cut + ("…" if cut != line else ""), font=font) > width:
            cut = cut[:-1]
        lines.append(cut if cut == line else cut + "…")
    return "\n".join(lines)


def _dot(pen: ImageDraw.ImageDraw, points: NDArray[Any], colours: Pixels, side: int) -> None:
    radius = max(side / 120, 3)
    for (x, y), colour in zip(np.asarray(points, dtype=float), colours, strict=True):
        pen.ellipse([x - radius - 1, y - radius - 1, x + radius + 1, y + radius + 1], fill=_PAPER)
        pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=tuple(int(c) for c in colour))
