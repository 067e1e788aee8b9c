"""Crops, mirror images and other light, drawn anew each time a picture with a map is learnt from.

The features of such a picture cannot be kept, so each step costs a pass of the backbone: worth it on a GPU, or where
labelled pictures are few.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dinokit.backbones.features import Features
from dinokit.images.read import Picture
from dinokit.inference.stored_features import StoredFeatures

PixelValues = NDArray[Any]
"""[H, W], a value for each pixel of a picture."""


@dataclass(frozen=True)
class Augmentation:
    """How pictures are changed."""

    area: tuple[float, float] = (0.3, 1.0)
    """Least and greatest share of the picture that a crop takes."""
    mirror: float = 0.5
    """Probability of a mirrored picture."""
    light: float = 0.3
    """Brightness, contrast and saturation: factors of 1 ± this."""

    def draw(
        self, picture: Picture, values: PixelValues, generator: torch.Generator, unknown: int
    ) -> tuple[Picture, PixelValues]:
        """A changed picture uint8 [h, w, 3], and the values [h, w] of its pixels.

        unknown: the value of pixels that say nothing; where all of a crop do, it is not cropped.
        """
        height, width = picture.shape[:2]
        share, down, across, mirrored, *light = torch.rand(7, generator=generator).tolist()
        side = (self.area[0] + share * (self.area[1] - self.area[0])) ** 0.5
        high, wide = max(round(height * side), 1), max(round(width * side), 1)
        top, left = round(down * (height - high)), round(across * (width - wide))
        window = (slice(top, top + high), slice(left, left + wide))
        if (values[window] == unknown).all():
            window = (slice(None), slice(None))
        step = -1 if mirrored < self.mirror else 1
        cut, kept = (np.ascontiguousarray(whole[window][:, ::step]) for whole in (picture, values))
        return self._light(cut, [1 + self.light * (2 * value - 1) for value in light]), kept

    def _light(self, picture: Picture, factors: list[float]) -> Picture:
        brightness, contrast, saturation = factors
        values = picture.astype(np.float32) * brightness
        values = values.mean() + (values - values.mean()) * contrast
        grey = values.mean(axis=2, keepdims=True)
        values = grey + (values - grey) * saturation
        return np.asarray(np.clip(np.round(values), 0, 255), dtype=np.uint8)


def look_at_chosen(
    store: StoredFeatures,
    maps: Sequence[PixelValues],
    chosen: Sequence[int],
    augmentation: Augmentation | None,
    generator: torch.Generator,
    unknown: int,
) -> tuple[list[tuple[Features, ...]], list[PixelValues]]:
    """Features and values of the chosen pictures of a set: as they are stored, or of changed ones, looked at now.

    unknown: see `Augmentation.draw`.
    """
    if augmentation is None:
        return [store[i] for i in chosen], [maps[i] for i in chosen]
    changed = [augmentation.draw(store.picture(i), maps[i], generator, unknown) for i in chosen]
    return store.look_at([picture for picture, _ in changed]), [values for _, values in changed]
