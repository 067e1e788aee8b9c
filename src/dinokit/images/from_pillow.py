"""From a Pillow picture of any mode to uint8 pixels, upright and in sRGB, a band of rows at a time.

Pillow holds up to 4 bytes a pixel and the result is 3 more; whatever a conversion needs on the way, it needs for
one band only.
"""

import numpy as np
from PIL import Image

from dinokit.images import kinds
from dinokit.images.kinds import Finding, UnreadableError
from dinokit.images.pixels import Pixels, bands, empty_upright, lay_on_white, to_bytes, to_channels, turn_upright
from dinokit.images.profiles import Conversion, conversion

_WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa")
_MORE_THAN_BYTES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_NOT_CHANNELS = ("P", "PA", "1")


def from_pillow(image: Image.Image, turn: int, channels: int) -> Pixels:
    """Decode and convert to [H, W, channels], its EXIF orientation `turn` undone.

    One or three channels: see-through pixels on white, in sRGB. Any other number: the bands as they are stored.
    Raises `UnreadableError` for what is damaged, and where `channels` are not to be had.
    """
    try:
        image.load()
    except Exception as error:  # decoders raise anything on hostile bytes
        truncated = "truncated" in str(error) or isinstance(error, EOFError)
        raise UnreadableError(kinds.TRUNCATED if truncated else kinds.DAMAGED) from None
    if not (image.width and image.height):
        raise UnreadableError(Finding("has no pixels", "give a picture of at least one pixel"))
    if channels not in (1, 3):
        values = to_bytes(np.asarray(image.convert("RGBA") if image.mode in _NOT_CHANNELS else image))
        return to_channels(turn_upright(values.reshape(image.height, image.width, -1), turn), channels)
    profile = image.info.get("icc_profile")
    if image.mode in _MORE_THAN_BYTES:
        image = Image.fromarray(to_bytes(np.asarray(image)))
    try:
        return to_channels(_convert(image, turn, conversion(profile, image.mode)), channels)
    except (ValueError, OSError):  # such as a palette that lacks entries
        raise UnreadableError(kinds.DAMAGED) from None


def _convert(image: Image.Image, turn: int, to_srgb: Conversion | None) -> Pixels:
    upright, stored = empty_upright(image.height, image.width, 3, turn)
    for rows in bands(image.height, image.width):
        stored[rows] = _to_rgb(image.crop((0, rows.start, image.width, rows.stop)), to_srgb)
    return upright


def _to_rgb(band: Image.Image, to_srgb: Conversion | None) -> Pixels:
    """One band of rows in any mode -> [H, W, 3]."""
    see_through = band.mode in _WITH_ALPHA or "transparency" in band.info
    if see_through:
        band = band.convert("RGBA")
    if to_srgb is not None:
        colours = to_srgb.of_image(band)
        if not see_through:
            return np.asarray(colours)
        colours.putalpha(band.getchannel("A"))
        band = colours
    if see_through:
        return lay_on_white(np.asarray(band))
    return np.asarray(band if band.mode == "RGB" else band.convert("RGB"))
