"""Pixels of every kind become RGB band by band: the values of the whole picture, without several times its memory."""

import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from dinokit.images import pixels
from dinokit.images.read import read

KINDS = ["1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB", "HSV", "I;16", "RGBA", "LA", "PA", "RGBa", "P see-through"]


def picture(kind: str, width: int, height: int) -> Image.Image:
    random = np.random.default_rng(0)
    if kind == "I;16":
        return Image.fromarray(random.integers(0, 65536, (height, width), np.uint16))
    image = Image.fromarray(random.integers(0, 256, (height, width, 4), np.uint8))
    if kind == "LAB":
        return Image.merge("LAB", image.split()[:3])
    steps = {"PA": ["RGB", "P", "PA"], "P see-through": ["RGB", "P"]}
    for mode in steps.get(kind, [kind] if kind in ("RGBA", "RGBa", "LA") else ["RGB", kind]):
        image = image.convert(mode)
    if kind == "P see-through":
        image.info["transparency"] = bytes(range(256))
    return image


def expected(image: Image.Image) -> NDArray[np.float64]:
    if image.mode == "I;16":
        return np.repeat(np.asarray(image)[:, :, None] / 257, 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        rgba = np.asarray(image.convert("RGBA")).astype(float)
        return np.asarray(255 + (rgba[:, :, :3] - 255) * rgba[:, :, 3:] / 255)
    return np.asarray(image.convert("RGB"), np.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_bands_give_the_values_of_the_whole(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "_BAND_PIXELS", 40)
    image = picture(kind, 13, 17)
    found = read(image)
    assert found.flags.c_contiguous
    assert found.flags.writeable
    assert np.abs(found - expected(image)).max() <= 0.5


@pytest.mark.parametrize("turn", range(1, 9))
def test_bands_fall_into_their_upright_place(turn: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "_BAND_PIXELS", 40)
    image = picture("RGB", 13, 17)
    image.getexif()[0x0112] = turn
    upright = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(read(image), upright)
    np.testing.assert_array_equal(pixels.turn_upright(np.asarray(image), turn), upright)


@pytest.mark.parametrize("kind", ["RGB", "CMYK", "I;16", "RGBA", "LA", "P see-through", "array"])
def test_reading_takes_little_more_memory_than_its_result(kind: str) -> None:
    """Pillow holds at most 4 bytes a pixel besides, which this cannot see."""
    image = picture("RGBA" if kind == "array" else kind, 2000, 1500)
    source = np.asarray(image) if kind == "array" else image
    tracemalloc.start()
    try:
        result = read(source)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * result.nbytes
