"""Pixels of every kind become uint8 band by band: the values of the whole picture, without several times its memory."""

import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
import torch
from helpers_pictures import encode, photo, tiff
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image, ImageOps

from dinokit.images import pixels
from dinokit.images.read import ReadError, read, read_pages

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


ALL_NUMBERS = st.sampled_from([np.uint8, np.uint16, np.uint32, np.int16, np.int64, np.float16, np.float32, np.float64])


@given(st.data(), ALL_NUMBERS)
def test_no_number_is_clipped_and_none_overtakes_another(data: st.DataObject, dtype: type[np.generic]) -> None:
    kind = np.dtype(dtype)
    bounds = {} if kind.kind == "f" else {"min_value": np.iinfo(kind).min, "max_value": np.iinfo(kind).max}
    elements = st.floats(width=kind.itemsize * 8, allow_nan=False, allow_infinity=False) if not bounds else None
    values = data.draw(arrays(dtype, (3, 4), elements=st.integers(**bounds) if elements is None else elements))
    found = pixels.to_bytes(values)
    order = np.argsort(values, axis=None, kind="stable")
    assert (np.diff(found.ravel()[order].astype(int)) >= 0).all()
    np.testing.assert_array_equal(pixels.to_bytes(values.astype(values.dtype.newbyteorder())), found)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.int64])
def test_whole_numbers_are_white_at_the_top_of_their_bits(bits: int, dtype: type[np.generic]) -> None:
    white = 2**bits - 1
    values = np.linspace(0, white, 60, dtype=dtype).reshape(3, 20)
    exact = [round(Fraction(int(value) * 255, white)) for value in values.ravel()]
    assert pixels.to_bytes(values).ravel().tolist() == exact


def test_floats_are_shares_of_white_or_go_from_the_least_to_the_greatest() -> None:
    shares = np.array([[0.0, 0.25, 0.5]])
    assert pixels.to_bytes(shares).tolist() == [[0, 64, 128]]
    assert pixels.to_bytes(shares * 1000 - 500).tolist() == [[0, 128, 255]]
    assert pixels.to_bytes(np.array([[-1.5e308, 1.7e308]])).tolist() == [[0, 255]]
    assert pixels.to_bytes(np.full((2, 2), 7.5)).tolist() == [[0, 0], [0, 0]]
    assert pixels.to_bytes(np.array([[True, False]])).tolist() == [[255, 0]]


def test_a_photo_is_the_same_in_all_numbers() -> None:
    expected = np.asarray(photo())
    tensor = torch.from_numpy(expected.copy()).permute(2, 0, 1)
    for source in (
        expected.astype(np.uint16) * 257,
        expected.astype(np.int64),
        (expected / 255).astype(np.float32),
        (expected / 255).astype(np.float16),
        expected / 255,
        tensor,
        tensor.to(torch.uint16) * 257,
        tensor / 255,
        (tensor / 255).half(),
    ):
        np.testing.assert_array_equal(read(source), expected)
    assert np.abs(read((tensor / 255).bfloat16()) - expected.astype(int)).max() <= 1


@given(st.integers(1, 8), st.sampled_from([1, 2, 3, 4, 6]))
def test_channels_are_those_of_the_network_or_an_error(channels: int, found: int) -> None:
    values = np.random.default_rng(found).integers(0, 256, (3, 5, found), np.uint8)
    convertible = channels == found or (channels in (1, 3) and found in (1, 3, 4))
    if not convertible:
        with pytest.raises(ReadError, match=f"has {found} channels? where the network reads {channels}"):
            read(values, channels=channels)
        return
    picture = read(values, channels=channels)
    assert picture.shape == (3, 5, channels)
    if channels == found:
        np.testing.assert_array_equal(picture, values)
    elif channels == 1:
        colours = Image.fromarray(read(values, channels=3))
        assert np.abs(picture[:, :, 0].astype(int) - np.asarray(colours.convert("L"))).max() <= 1


def test_bands_of_a_file_are_the_channels_where_they_are_as_many() -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (6, 7, 4), np.uint8)
    for data in (encode(Image.fromarray(rgba), "PNG"), tiff(rgba, photometric="rgb", extrasamples=["unspecified"])):
        np.testing.assert_array_equal(read(data, channels=4), rgba)
        with pytest.raises(ReadError, match="where the network reads 5"):
            read(data, channels=5)
    spectrum = np.random.default_rng(0).integers(0, 65536, (6, 7, 9)).astype(np.uint16)
    for planar in ("contig", "separate"):
        values = spectrum if planar == "contig" else np.ascontiguousarray(spectrum.transpose(2, 0, 1))
        data = tiff(values, photometric="minisblack", planarconfig=planar)
        np.testing.assert_array_equal(read(data, channels=9), pixels.to_bytes(spectrum))


def test_a_fourth_band_is_seen_through_only_where_it_says_so() -> None:
    values = np.full((4, 5, 4), (100, 200, 50, 0), np.uint8)
    for depth in (1, 257):
        deep = values.astype(np.uint16) * depth if depth > 1 else values
        deep[0, 0, 1] = np.iinfo(deep.dtype).max  # so that all bits are in use
        infrared = tiff(deep, photometric="rgb", extrasamples=["unspecified"])
        assert read(infrared)[1, 1].tolist() == [100, 200, 50]
        see_through = tiff(deep, photometric="rgb", extrasamples=["unassalpha"])
        assert read(see_through)[1, 1].tolist() == [255, 255, 255]


def test_the_pages_of_a_tiff_are_pictures() -> None:
    pages = [photo(), photo(30, 20), photo(20, 30)]
    found = list(read_pages(encode(pages[0], "TIFF", save_all=True, append_images=pages[1:])))
    for picture, page in zip(found, pages, strict=True):
        np.testing.assert_array_equal(picture, np.asarray(page))
    deep = np.stack([np.asarray(photo()), 255 - np.asarray(photo())]).astype(np.uint16) * 257
    first, second = read_pages(tiff(deep, photometric="rgb"))
    np.testing.assert_array_equal(first, 255 - second)
    np.testing.assert_array_equal(first, np.asarray(photo()))
    assert len(list(read_pages(encode(photo(), "PNG")))) == 1
    with pytest.raises(ReadError, match="is not a picture"):
        list(read_pages(b"no picture"))
