"""Every format that people have: the same photo from each, and an error for any part of it."""

import contextlib
import resource
import struct
import sys
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from helpers_pictures import encode, every_format, heic, photo, png_chunk
from PIL import Image, ImageOps

from dinokit.images import pixels, tiff
from dinokit.images.read import ReadError, read, size

COLOURS = np.asarray(photo()).astype(int)
GREY = np.asarray(photo().convert("L")).astype(int)
LOSSY = {"jpeg": 8, "jpeg progressive": 8, "jpeg cmyk": 5, "webp": 6, "avif": 6, "heic": 4, "tiff jpeg": 6}
"""How far, on average, the codec itself moves values."""
LOSSY |= {"jpeg grey": 5, "png palette": 20, "gif": 4}


@pytest.mark.parametrize("name", every_format())
def test_every_format_gives_the_photo(name: str) -> None:
    picture = read(every_format()[name])
    expected = COLOURS
    if "grey" in name:
        expected = np.repeat((COLOURS[:, :, 1:2] if "16-bit" in name else GREY[:, :, None]), 3, axis=2)
    difference = np.abs(picture.astype(int) - expected)
    assert difference.mean() <= LOSSY.get(name, 0)
    assert size(every_format()[name]) == (64, 96)


@pytest.mark.parametrize("name", every_format())
def test_one_channel_is_the_luminance(name: str) -> None:
    """Of the decoded colours; Pillow rounds its own the other way in places."""
    data = every_format()[name]
    expected = np.asarray(Image.fromarray(read(data)).convert("L")).astype(int)
    picture = read(data, channels=1)
    assert picture.shape == (64, 96, 1)
    assert np.abs(picture[:, :, 0] - expected).max() <= 1


@pytest.mark.parametrize("name", every_format())
def test_a_cut_file_is_the_whole_picture_or_an_error(name: str) -> None:
    data = every_format()[name]
    whole = read(data)
    near_the_end = range(max(len(data) - 20, 0), len(data))
    for end in [*range(0, len(data), max(len(data) // 60, 1)), *near_the_end]:
        with contextlib.suppress(ReadError):
            np.testing.assert_array_equal(read(data[:end]), whole)  # what was cut off was not needed


@pytest.mark.parametrize("name", every_format())
def test_damage_gives_a_picture_or_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """300 damaged files; sizes that they claim are bounded, so memory is too."""
    monkeypatch.setattr(pixels, "MAX_PIXELS", 500_000)
    monkeypatch.setattr(tiff, "MAX_VALUES_BYTES", 4_000_000)
    data = np.frombuffer(every_format()[name], np.uint8)
    random = np.random.default_rng(sum(name.encode()))
    before = _peak_memory()
    for number in range(300):
        broken = data.copy()
        reach = len(data) if number % 2 else min(len(data), 500)  # headers matter more
        places = random.integers(0, reach, random.integers(1, 10))
        broken[places] = random.integers(0, 256, len(places))
        with contextlib.suppress(ReadError):
            assert read(broken.tobytes()).shape[2] == 3
    assert _peak_memory() - before < 200 << 20


def _peak_memory() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("format", ["AVIF", "HEIC"])
def test_phones_hold_their_pictures_in_any_way(format: str, turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    data = heic(photo(), exif=exif.tobytes()) if format == "HEIC" else encode(photo(), "AVIF", exif=exif, quality=95)
    image = photo()
    image.getexif()[0x0112] = turn
    upright = np.asarray(ImageOps.exif_transpose(image)).astype(int)
    assert np.abs(read(data) - upright).mean() < 4
    assert size(data) == upright.shape[:2]


def test_a_jpeg_with_filled_up_segments_is_turned_too() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(photo(), "JPEG", exif=exif)
    assert read(data[:2] + b"\xff\xff\xff" + data[2:]).shape == (96, 64, 3)


def test_16_bit_pngs_lose_less_than_a_step() -> None:
    """Pillow keeps the upper byte of 16-bit colours."""
    values = np.random.default_rng(0).integers(0, 65536, (40, 50, 3)).astype(np.uint16)
    difference = read(imagecodecs.png_encode(values)) - values / 257
    assert np.abs(difference).max() < 1


def test_extras_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "phone.heic").write_bytes(every_format()["heic"])
    (tmp_path / "map.tif").write_bytes(every_format()["tiff 16-bit"])
    for module in ("pillow_heif", "tifffile", "imagecodecs"):
        monkeypatch.setitem(sys.modules, module, None)
    for work in (read, size):
        with pytest.raises(ReadError, match=r"phone\.heic is a HEIC picture.*pip install 'dinokit\[heif\]'"):
            work(tmp_path / "phone.heic")
        with pytest.raises(ReadError, match=r"map\.tif is a TIFF that needs.*pip install 'dinokit\[geo\]'"):
            work(tmp_path / "map.tif")


def test_claims_of_absurd_sizes_are_refused_undecoded() -> None:
    tall = tiff_of_size(2**31, 2**20)
    assert "pixels" in reason(tall)
    deep = tiff_of_size(10_000, 10_000, samples=60_000)
    assert "bands" in reason(deep)
    heif = bytearray(every_format()["heic"])
    sizes = heif.index(b"ispe") + 8
    heif[sizes : sizes + 8] = struct.pack(">II", 60_000, 60_000)
    with contextlib.suppress(ReadError):  # libheif may go by the size of the coded picture instead
        assert read(bytes(heif)).size < 10**6


@pytest.mark.parametrize("name", [name for name in every_format() if name.startswith("tiff") and name != "tiff big"])
def test_a_tiff_that_claims_more_rows_than_it_has_is_truncated(name: str) -> None:
    data = bytearray(every_format()[name])
    [height] = (place + 8 for kind in (3, 4) if (place := data.find(struct.pack("<HHI", 257, kind, 1))) > 0)
    data[height : height + 4] = struct.pack("<I", 50_000)
    assert reason(bytes(data)) in ("is truncated", "is damaged")


def test_files_of_millions_of_empty_parts_are_refused_at_once() -> None:
    jpeg, png = every_format()["jpeg"], every_format()["png"]
    for data in (
        b"\xff\xd8" + b"\xff\xe0\0\2" * 5_000_000 + b"\xff\xe1\0\x08Exif\0\0" + jpeg[2:],
        png[:33] + png_chunk(b"tEXt", b"") * 5_000_000 + png[33:],
    ):
        assert reason(data) == "is damaged"
        with pytest.raises(ReadError):
            size(data)


def test_a_bomb_inside_a_strip_is_not_unpacked() -> None:
    bomb = zlib.compress(bytes(64 << 20), 9)
    data = tiff_of_size(16, 16, samples=3, compression=8, strip=bomb)
    before = _peak_memory()
    with contextlib.suppress(ReadError):
        read(data)
    assert _peak_memory() - before < 32 << 20


def test_a_bomb_as_a_profile_is_not_unpacked() -> None:
    header = struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0)
    profile = b"bomb\0\0" + zlib.compress(bytes(200 << 20), 9)
    rows = zlib.compress(b"".join(b"\0" + bytes(12) for _ in range(4)))
    chunks = [(b"IHDR", header), (b"iCCP", profile), (b"IDAT", rows), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)
    before = _peak_memory()
    with contextlib.suppress(ReadError):
        assert read(data).shape == (4, 4, 3)
    assert _peak_memory() - before < 64 << 20


def reason(data: bytes) -> str:
    with pytest.raises(ReadError) as caught:
        read(data)
    return caught.value.reason


def tiff_of_size(width: int, height: int, samples: int = 3, compression: int = 1, strip: bytes = b"\0" * 64) -> bytes:
    """A TIFF of 16-bit samples that says so of itself, whatever its strip holds."""
    tags = [(256, 4, width), (257, 4, height), (258, 3, 16), (259, 3, compression), (262, 3, 1), (277, 3, samples)]
    tags += [(278, 4, height), (279, 4, len(strip)), (284, 3, 1)]
    start = 8 + 2 + 12 * (len(tags) + 1) + 4
    tags = sorted([*tags, (273, 4, start)])
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return struct.pack("<2sHI", b"II", 42, 8) + struct.pack("<H", len(tags)) + entries + bytes(4) + strip
