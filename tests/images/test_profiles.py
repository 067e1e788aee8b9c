"""Colour profiles: what a picture looks like to a person is what the network sees."""

import io
import struct
from functools import cache

import numpy as np
import pytest
from helpers_pictures import encode, heic, photo, tiff
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from dinokit.images.profiles import conversion
from dinokit.images.read import read

D50 = (0.9642, 1.0, 0.8249)
ADOBE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
"""The primaries of Adobe RGB (1998) as XYZ under D50."""


def icc(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """A display profile of version 2 with these tags."""
    start = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    header = struct.pack(
        ">I4sI4s4s4s12s4s", start + len(body), b"none", 0x02100000, b"mntr", space, b"XYZ ", bytes(12), b"acsp"
    )
    header += bytes(28) + struct.pack(">3i", *(round(value * 65536) for value in D50))
    return header.ljust(128, b"\0") + table + body


def xyz(values: tuple[float, ...]) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


def gamma(value: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256)) + b"\0\0"


@cache
def adobe_rgb() -> bytes:
    primaries = {name: xyz(values) for name, values in zip((b"rXYZ", b"gXYZ", b"bXYZ"), ADOBE, strict=True)}
    return icc(
        b"RGB ", {b"wtpt": xyz(D50), **primaries, **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), gamma(2.19921875))}
    )


@cache
def pale_grey() -> bytes:
    return icc(b"GRAY", {b"wtpt": xyz(D50), b"kTRC": gamma(1.5)})


@cache
def srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


INKS = {
    (255, 0, 0, 0): (0, 158, 224),
    (0, 255, 0, 0): (226, 0, 122),
    (0, 0, 255, 0): (255, 236, 0),
    (0, 0, 0, 255): (30, 28, 28),
}
"""What full cyan, magenta, yellow and black print as, in sRGB."""


@cache
def press() -> bytes:
    """A printer's profile: a table of the colours, as Lab, of its inks, two steps of each."""
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = {}
    for ink, colour in {(0, 0, 0, 0): (255, 255, 255), **INKS}.items():
        lab[ink] = bytes(ImageCms.applyTransform(Image.new("RGB", (1, 1), colour), to_lab).getpixel((0, 0)))
    corners = [tuple(255 * (number >> shift & 1) for shift in (3, 2, 1, 0)) for number in range(16)]
    table = b"".join(lab.get(corner, bytes((0, 128, 128))) for corner in corners)
    identity = struct.pack(">9i", *(65536 * (n % 4 == 0) for n in range(9)))
    lut = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + identity + bytes(range(256)) * 4 + table + bytes(range(256)) * 3
    profile = bytearray(icc(b"CMYK", {b"wtpt": xyz(D50), **dict.fromkeys((b"A2B0", b"A2B1"), lut)}))
    profile[12:16], profile[20:24] = b"prtr", b"Lab "
    return bytes(profile)


def by_hand(picture: np.ndarray) -> np.ndarray:
    """Adobe RGB uint8 [H, W, 3] as sRGB float, by the formulas of both standards."""
    light = (picture / 255) ** 2.19921875 @ np.array(ADOBE)  # [H, W, 3] XYZ under D50
    to_srgb = [
        [3.1338561, -0.9787684, 0.0719453],
        [-1.6168667, 1.9161415, -0.2289914],
        [-0.4906146, 0.0334540, 1.4052427],
    ]
    linear = np.clip(light @ np.array(to_srgb), 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


FILES = {
    "png": lambda image, profile: encode(image, "PNG", icc_profile=profile),
    "webp": lambda image, profile: encode(image, "WEBP", lossless=True, icc_profile=profile),
    "tiff": lambda image, profile: encode(image, "TIFF", icc_profile=profile),
    "jpeg": lambda image, profile: encode(image, "JPEG", quality=100, subsampling=0, icc_profile=profile),
    "avif": lambda image, profile: encode(image, "AVIF", quality=100, subsampling="4:4:4", icc_profile=profile),
    "tiff 16-bit": lambda image, profile: tiff(
        np.asarray(image).astype(np.uint16) * 257, photometric="rgb", iccprofile=profile
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_colours_of_adobe_rgb_become_srgb(name: str) -> None:
    expected = by_hand(np.asarray(photo()))
    assert np.abs(expected - np.asarray(photo())).mean() > 4  # it makes a difference
    difference = np.abs(read(FILES[name](photo(), adobe_rgb())) - expected)
    assert difference.mean() < (2 if name in ("jpeg", "avif") else 0.5)


def test_heic_has_its_profile_too() -> None:
    image = photo()
    image.info["icc_profile"] = adobe_rgb()
    assert np.abs(read(heic(image)) - by_hand(np.asarray(photo()))).mean() < 5


def test_a_pillow_picture_carries_its_profile() -> None:
    with Image.open(io.BytesIO(encode(photo(), "PNG", icc_profile=adobe_rgb()))) as image:
        np.testing.assert_array_equal(read(image), read(encode(photo(), "PNG", icc_profile=adobe_rgb())))


@pytest.mark.parametrize("name", FILES)
def test_srgb_is_left_as_it_is(name: str) -> None:
    np.testing.assert_array_equal(read(FILES[name](photo(), srgb())), read(FILES[name](photo(), None)))
    assert conversion(srgb(), "RGB") is None


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF"])
def test_grey_has_profiles_of_its_own(format: str) -> None:
    data = encode(photo().convert("L"), format, icc_profile=pale_grey())
    light = (read(encode(photo().convert("L"), format)) / 255) ** 1.5
    expected = 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    assert np.abs(read(data) - expected).mean() < 1


def test_a_palette_and_transparency_keep_their_places() -> None:
    image = photo().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    alpha = np.asarray(image)[:, :, 3:] / 255
    expected = by_hand(np.asarray(photo())) * alpha + 255 * (1 - alpha)
    assert np.abs(read(encode(image, "PNG", icc_profile=adobe_rgb())) - expected).mean() < 0.7
    palette = photo().convert("P")
    expected = by_hand(np.asarray(palette.convert("RGB")))
    assert np.abs(read(encode(palette, "PNG", icc_profile=adobe_rgb())) - expected).mean() < 0.5


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
@pytest.mark.parametrize("ink", INKS)
def test_inks_have_the_colours_of_their_press(format: str, ink: tuple[int, int, int, int]) -> None:
    options = {"quality": 100} if format == "JPEG" else {}
    data = encode(Image.new("CMYK", (16, 16), ink), format, icc_profile=press(), **options)
    assert np.abs(read(data)[8, 8].astype(int) - INKS[ink]).max() <= 6
    assert np.abs(read(encode(Image.new("CMYK", (16, 16), ink), format))[8, 8].astype(int) - INKS[ink]).max() > 15


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_profile_of_other_colours_is_left_out(mode: str) -> None:
    profile = adobe_rgb() if mode == "CMYK" else b"\0" * 16 + b"CMYK" + bytes(200)
    image = photo().convert(mode)
    np.testing.assert_array_equal(read(encode(image, "TIFF", icc_profile=profile)), read(encode(image, "TIFF")))


@given(st.binary(max_size=300), st.integers(0, 500), st.integers(0, 500))
def test_a_broken_profile_does_not_matter(noise: bytes, start: int, end: int) -> None:
    broken = adobe_rgb()[:start] + noise + adobe_rgb()[end:]
    for format in ("PNG", "JPEG"):
        assert read(encode(photo(8, 8), format, icc_profile=broken or None)).shape == (8, 8, 3)
