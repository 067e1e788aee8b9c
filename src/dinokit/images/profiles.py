"""Embedded colour profiles (ICC): from the colours of a device to sRGB, which networks were trained on.

Most profiles are sRGB under one of many names. Whether one is can be seen from what it does: a conversion that moves
no colour is left out. A profile is looked at once, and a broken one is as good as none.
"""

from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

from dinokit.images.pixels import Pixels, bands

_LARGEST = 16 << 20
_SPACES = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}
_TAKEN_BY = {"RGB": "RGB", "L": "L", "CMYK": "CMYK", "1": "L", "LA": "L"}
"""The profile's colours that a picture's mode has; a mode that is not here is converted to RGB first."""
_UNCONVERTED = ("LAB", "HSV")


@dataclass(frozen=True)
class Conversion:
    """From colours of the Pillow mode `mode` to sRGB."""

    mode: str
    transform: ImageCms.ImageCmsTransform

    def of_image(self, image: Image.Image) -> Image.Image:
        """The picture in sRGB, mode RGB, without its opacity."""
        image = image if image.mode == self.mode else image.convert(self.mode)
        converted = ImageCms.applyTransform(image, self.transform)
        assert converted is not None  # None is given where a picture is converted in place
        return converted

    def of_pixels(self, picture: Pixels) -> None:
        """Convert an array [H, W, 3] where it lies; `mode` is RGB."""
        for rows in bands(*picture.shape[:2]):
            picture[rows] = np.asarray(self.of_image(Image.fromarray(picture[rows])))


def conversion(profile: bytes | None, mode: str) -> Conversion | None:
    """How pictures of the Pillow `mode` with this profile become sRGB; None: they are, or nothing is known."""
    if not profile or len(profile) > _LARGEST or mode in _UNCONVERTED:
        return None
    space = _SPACES.get(bytes(profile[16:20]))
    grey_or_colour = _TAKEN_BY.get(mode, "RGB")
    fits = space == grey_or_colour or (space == "RGB" and grey_or_colour == "L")
    return _conversion(bytes(profile), space) if space and fits else None


@lru_cache(maxsize=16)
def _conversion(profile: bytes, space: str) -> Conversion | None:
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        found = Conversion(space, ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), space, "RGB"))
        return None if _moves_nothing(found) else found
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _moves_nothing(found: Conversion) -> bool:
    """Whether no colour of a coarse grid changes by more than rounding."""
    if found.mode == "CMYK":
        return False
    if found.mode == "L":
        colours = np.arange(256, dtype=np.uint8)[None]  # [1, 256]
        expected = np.repeat(colours[:, :, None], 3, axis=2)
    else:
        levels = np.linspace(0, 255, 9).astype(np.uint8)
        colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
        expected = colours
    moved = np.asarray(found.of_image(Image.fromarray(colours))).astype(int) - expected
    return bool(np.abs(moved).max() <= 1)
