"""From the pixels of a Pillow picture to uint8 RGB, upright, a band of rows at a time.

Pillow holds up to 4 bytes a pixel and the result is 3 more; whatever a conversion needs on the way, it needs for
one band only, so that a large picture does not take several times its size.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_BAND_PIXELS = 1 << 18
_WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa")

Pixels = NDArray[np.uint8]


def from_pillow(image: Image.Image, turn: int) -> Pixels:
    """Convert a loaded picture to [H, W, 3], see-through pixels on white, its EXIF orientation `turn` undone.

    Any mode but the 32-bit ones (I, F), whose values have no fixed range.
    """
    upright, stored = _empty(image.height, image.width, turn)
    rows = max(_BAND_PIXELS // image.width, 1)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        stored[top:bottom] = _to_rgb(image.crop((0, top, image.width, bottom)))
    return upright


def on_white(rgba: Pixels) -> Pixels:
    """Lay [H, W, 4] on a white ground -> [H, W, 3]."""
    picture = np.empty((*rgba.shape[:2], 3), np.uint8)
    rows = max(_BAND_PIXELS // rgba.shape[1], 1)
    for top in range(0, len(rgba), rows):
        picture[top : top + rows] = _lay_on_white(rgba[top : top + rows])
    return picture


def turn_upright(picture: Pixels, turn: int) -> Pixels:
    """Undo the EXIF orientation `turn`, 1..8, of [H, W, 3]; the picture itself where there is nothing to do."""
    if turn == 1:
        return picture
    upright, stored = _empty(picture.shape[0], picture.shape[1], turn)
    stored[:] = picture
    return upright


def _empty(height: int, width: int, turn: int) -> tuple[Pixels, Pixels]:
    """An upright picture to be filled, and the view of it [height, width, 3] in which its pixels are stored."""
    upright = np.empty((width, height, 3) if turn >= 5 else (height, width, 3), np.uint8)
    stored: Pixels = upright
    if turn in (3, 4, 7, 8):
        stored = stored[::-1]
    if turn in (2, 3, 6, 7):
        stored = stored[:, ::-1]
    return upright, stored.swapaxes(0, 1) if turn >= 5 else stored  # 5 to 8 are mirrored along the main diagonal


def _to_rgb(band: Image.Image) -> Pixels:
    """One band of rows in any mode -> [H, W, 3] or [H, W, 1]."""
    if band.mode.startswith("I;16"):
        values = np.asarray(band).astype(np.uint32)
        return ((values * 255 + 32767) // 65535).astype(np.uint8)[:, :, None]
    if band.mode in _WITH_ALPHA or "transparency" in band.info:
        return _lay_on_white(np.asarray(band.convert("RGBA")))
    return np.asarray(band if band.mode == "RGB" else band.convert("RGB"))


def _lay_on_white(band: Pixels) -> Pixels:
    alpha = band[:, :, 3:].astype(np.uint16)
    colour = band[:, :, :3].astype(np.uint16)
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
