"""Numbers as pictures: bars beside a photo, and a matrix in colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from dinokit.images.draw import Pixels, ramp

_INK, _PAPER, _FAINT, _BAR = (38, 38, 38), (255, 255, 255), (232, 232, 232), (45, 110, 190)
_NAMED = 40
"""The most classes that have room for their names."""
_COUNTED = 15
"""The most classes that have room for their counts."""


def draw_bars(picture: Pixels, names: Sequence[str], values: Sequence[float], side: int = 320) -> Pixels:
    """A picture, `side` pixels high, and beside it names with bars for values from 0 to 1, in per cent."""
    photo = Image.fromarray(picture)
    photo = photo.resize((max(round(photo.width * side / photo.height), 1), side), Image.Resampling.LANCZOS)
    width, line = round(0.9 * side), side / max(len(names), 5)
    font = ImageFont.load_default(line * 0.3)
    page = Image.new("RGB", (photo.width + width, side), _PAPER)
    page.paste(photo, (0, 0))
    pen, left, right = ImageDraw.Draw(page), photo.width + line * 0.3, photo.width + width - line * 0.3
    for i, (name, value) in enumerate(zip(names, values, strict=True)):
        top = i * line + line * 0.15
        figure = f"{100 * value:.1f} %"
        start = right - pen.textlength(figure, font=font)
        pen.text((left, top), _cut(pen, name, start - left - line * 0.2, font), fill=_INK, font=font)
        pen.text((start, top), figure, fill=_INK, font=font)
        for end, colour in ((right, _FAINT), (left + (right - left) * value, _BAR)):
            pen.rectangle([left, top + line * 0.42, max(end, left + 1), top + line * 0.66], fill=colour)
    return np.array(page)


def draw_matrix(counts: NDArray[Any], names: Sequence[str], across: str, down: str) -> Pixels:
    """A matrix of counts [K, K], each row as shares of its sum from dark (none) to yellow (all).

    Up to 40 classes have their names, up to 15 the counts too. across, down: what columns and rows are.
    """
    size = len(names)
    cell = int(np.clip(800 // size, 5, 56))
    font = ImageFont.load_default(min(max(cell * 0.5, 10), 16))
    pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    wide = min(round(max(pen.textlength(name, font=font) for name in names)) + 8, 200) if size <= _NAMED else 0
    margin, side = 34 + wide, size * cell
    page = Image.new("RGB", (margin + side + 12, margin + side + 12), _PAPER)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    page.paste(Image.fromarray(ramp(shares, 0, 1).repeat(cell, axis=0).repeat(cell, axis=1)), (margin, margin))
    if wide:
        page.paste(_column(names, cell, wide, font, to_right=True), (margin - wide, margin))
        names_above = _column(names, cell, wide, font, to_right=False)
        page.paste(names_above.transpose(Image.Transpose.ROTATE_90), (margin, margin - wide))
    title = ImageFont.load_default(18)
    for text, upright in ((across, False), (down, True)):
        tag = Image.new("RGB", (side, 26), _PAPER)
        ImageDraw.Draw(tag).text((side / 2, 13), text, fill=_INK, font=title, anchor="mm")
        page.paste(
            tag.transpose(Image.Transpose.ROTATE_90) if upright else tag, (2, margin) if upright else (margin, 2)
        )
    if size <= _COUNTED:
        _write_counts(page, counts, shares, margin, cell)
    return np.array(page)


def _column(names: Sequence[str], line: int, width: int, font: Any, to_right: bool) -> Image.Image:
    """Names below each other, one every `line` pixels."""
    page = Image.new("RGB", (width, line * len(names)), _PAPER)
    pen = ImageDraw.Draw(page)
    for i, name in enumerate(names):
        place = (width - 5 if to_right else 5, (i + 0.5) * line)
        pen.text(place, _cut(pen, name, width - 8, font), fill=_INK, font=font, anchor="rm" if to_right else "lm")
    return page


def _write_counts(page: Image.Image, counts: NDArray[Any], shares: NDArray[Any], margin: int, cell: int) -> None:
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(cell * 0.3)
    for row, col in zip(*np.nonzero(counts), strict=True):
        place = (margin + (col + 0.5) * cell, margin + (row + 0.5) * cell)
        pen.text(place, str(counts[row, col]), fill=_INK if shares[row, col] > 0.6 else _PAPER, font=font, anchor="mm")


def _cut(pen: ImageDraw.ImageDraw, text: str, width: float, font: Any) -> str:
    """The text, with its end left out where it is wider than `width` pixels."""
    if pen.textlength(text, font=font) <= width:
        return text
    while text and pen.textlength(text + "…", font=font) > width:
        text = text[:-1]
    return text + "…"
