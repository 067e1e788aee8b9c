"""Reading pictures: all that people have on their disks, and a plain sentence for what is no picture."""

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_pictures import encode, png_chunk
from PIL import Image, ImageOps

from dinokit.data.folder import Folder
from dinokit.images.pixels import MAX_PIXELS
from dinokit.images.read import MAX_BYTES, ReadError, read, size

PICTURES = Path(__file__).parent.parent / "pictures"
PHOTOS = sorted(PICTURES.glob("*.jpg"))
PHOTO = PHOTOS[0]


def reason(source: object) -> str:
    with pytest.raises(ReadError) as caught:
        read(source)
    return caught.value.reason


@pytest.mark.parametrize("path", PHOTOS, ids=lambda path: path.stem)
def test_a_jpeg_is_read_as_pillow_reads_it(path: Path) -> None:
    picture = read(path)
    assert picture.dtype == np.uint8
    assert np.abs(picture.astype(int) - np.asarray(Image.open(path)).astype(int)).max() <= 1
    assert size(path) == picture.shape[:2]


def test_every_kind_of_source_gives_the_same_picture() -> None:
    image = Image.open(PHOTO)
    expected = read(PHOTO)
    for source in (str(PHOTO), PHOTO.read_bytes(), image, np.asarray(image)):
        np.testing.assert_allclose(read(source).astype(int), expected, atol=1)
        assert size(source) == expected.shape[:2]


@pytest.mark.parametrize("format", ["PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_other_formats_agree_with_pillow(format: str) -> None:
    options = {"lossless": True} if format == "WEBP" else {}
    image = Image.open(PHOTO).convert("P" if format == "GIF" else "RGB")
    data = encode(image, format, **options)
    np.testing.assert_array_equal(read(data), np.asarray(image.convert("RGB")))
    assert size(data) == (image.height, image.width)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_the_exif_orientation_is_applied(format: str, turn: int) -> None:
    image = Image.open(PHOTO).resize((40, 24))
    exif = Image.Exif()
    exif[0x0112] = turn
    data = encode(image, format, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    picture = read(data)
    np.testing.assert_allclose(picture.astype(int), np.asarray(upright).astype(int), atol=1)
    np.testing.assert_array_equal(picture.shape, read(Image.open(io.BytesIO(data))).shape)
    assert size(data) == picture.shape[:2] == size(Image.open(io.BytesIO(data)))


def test_a_broken_orientation_tag_does_not_matter() -> None:
    exif = Image.Exif()
    exif[0x0112] = 77
    assert read(encode(Image.new("RGB", (5, 3)), "JPEG", exif=exif)).shape == (3, 5, 3)


def test_see_through_pixels_lie_on_white() -> None:
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[0, :, :] = (200, 0, 0, 255)
    rgba[1, 1] = (0, 0, 0, 128)
    for source in (encode(Image.fromarray(rgba), "PNG"), rgba):
        picture = read(source)
        assert picture[0, 0].tolist() == [200, 0, 0]
        assert picture[1, 0].tolist() == [255, 255, 255]
        assert picture[1, 1].tolist() == [127, 127, 127]


def test_a_palette_with_a_transparent_entry() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    assert read(encode(image, "PNG", transparency=0)).tolist() == [[[255, 255, 255], [0, 0, 255]]]


def test_cmyk_jpegs_look_as_in_pillow() -> None:
    image = Image.open(PHOTO).convert("CMYK")
    data = encode(image, "JPEG", quality=95)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(read(data).astype(int) - expected).max() <= 2


def test_grey_pictures_get_three_equal_channels() -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for source in (encode(Image.fromarray(grey), "PNG"), grey, grey[:, :, None]):
        assert (read(source) == grey[:, :, None]).all()
        assert read(source).shape == (3, 4, 3)
    assert read(encode(Image.fromarray(grey), "JPEG")).shape == (3, 4, 3)


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert read(data)[0, 0].tolist() == [255, 0, 0]


def test_large_jpegs_may_be_decoded_smaller_but_not_below_the_wish() -> None:
    data = encode(Image.open(PHOTO).resize((1600, 1000)), "JPEG")
    height, width, _ = read(data, at_least=200).shape
    assert 200 <= height < 1000
    assert width / height == pytest.approx(1.6, rel=0.01)
    assert read(data).shape == (1000, 1600, 3)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_truncated_jpeg_is_an_error_not_a_grey_half(share: float, progressive: bool) -> None:
    data = encode(Image.open(PHOTO), "JPEG", progressive=progressive)
    cut = data[: int(len(data) * share)]
    assert reason(cut) == "is truncated"
    assert reason(cut + b"\xff\xd9") == "is damaged"


@pytest.mark.parametrize("format", ["PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_other_truncated_formats_are_errors(format: str) -> None:
    data = encode(Image.open(PHOTO), format)
    assert reason(data[: len(data) // 2]) in ("is truncated", "is damaged", "is not a picture")


VIDEOS = {
    "mp4": b"\0\0\0\x20ftypisom\0\0\x02\0",
    "mov": b"\0\0\0\x14ftypqt  \0\0\0\0",
    "old-mov": b"\0\0\0\x08wide\0\0\x10\0mdat",
    "avi": b"RIFF\0\0\x10\0AVI LIST",
    "mkv": b"\x1a\x45\xdf\xa3\x01\0\0\0",
}


@pytest.mark.parametrize("data", VIDEOS.values(), ids=VIDEOS)
def test_a_video_is_called_a_video(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "holiday.jpg"
    path.write_bytes(data + bytes(5000))
    with pytest.raises(ReadError, match=r"holiday\.jpg is a video: .*frames"):
        read(path)
    with pytest.raises(ReadError, match="is a video"):
        size(path)


def test_errors_name_the_file_and_what_is_wrong(tmp_path: Path) -> None:
    files = {
        "empty.jpg": (b"", "is empty"),
        "text.jpg": (b"hello, I am no picture", "is not a picture"),
        "page.png": (b"\n<!DOCTYPE html><p>404", "is a web page"),
        "pointer.jpg": (b"version https://git-lfs.github.com/spec/v1\noid", "is a Git LFS pointer"),
        "paper.jpg": (b"%PDF-1.7 ...", "is a PDF"),
        "all.jpg": (b"PK\x03\x04....", "is an archive"),
    }
    for name, (data, sentence) in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ReadError, match=f"{name} {sentence}") as caught:
            read(tmp_path / name)
        assert caught.value.hint
    with pytest.raises(ReadError, match=r"nowhere\.jpg is not found"):
        read("nowhere.jpg")
    with pytest.raises(ReadError, match="is a folder"):
        read(tmp_path)


def test_pipes_and_huge_files_are_refused_unread(tmp_path: Path) -> None:
    with open(tmp_path / "movie.jpg", "wb") as file:
        file.truncate(MAX_BYTES + 1)
    assert reason(tmp_path / "movie.jpg") == "is larger than 256 MiB"
    os.mkfifo(tmp_path / "pipe.jpg")
    assert reason(tmp_path / "pipe.jpg") == "is not a regular file"
    with pytest.raises(ReadError, match=r"pipe\.jpg is not a regular file"):
        Folder(tmp_path).read_bytes(1)


def test_a_name_can_stand_for_bytes() -> None:
    with pytest.raises(ReadError, match=r"a\.tar/b\.jpg is empty"):
        read(b"", name="a.tar/b.jpg")


def test_wrong_arrays_are_refused() -> None:
    assert "has 2 channels where the network reads 3" in reason(np.zeros((4, 4, 2), np.uint8))
    for shape in [(0, 4, 3), (4,), (2, 4, 4, 3), ()]:
        assert "shape" in reason(np.zeros(shape, np.uint8))
    for shape in [(4, 4), (2, 3, 4, 4), (3, 0, 4)]:
        assert "shape" in reason(torch.zeros(shape))
    for values in (np.zeros((4, 4), complex), np.full((4, 4), "a"), np.full((4, 4), None)):
        assert "values" in reason(values)
    assert "complex64 values" in reason(torch.zeros(3, 4, 4, dtype=torch.complex64))
    for tensor in (torch.ones(3, 4, 4).to_sparse(), torch.empty(3, 4, 4, device="meta")):
        assert "values (torch." in reason(tensor)
    for value in (np.nan, np.inf, -np.inf):
        assert reason(np.full((4, 4), value)) == "holds NaN or infinite values"
    for source in (None, 5, ["a.jpg"]):
        assert "is of type" in reason(source)
    assert "no pixels" in reason(Image.new("RGB", (0, 5)))


def test_a_decompression_bomb_is_refused_before_it_is_decoded() -> None:
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(bytes(1000)))
    assert "pixels" in reason(bomb + png_chunk(b"IEND", b""))
    jpeg = bytearray(PHOTO.read_bytes())
    frame = jpeg.index(b"\xff\xc0") + 5
    jpeg[frame : frame + 4] = struct.pack(">HH", 60_000, 60_000)
    assert str(60_000) in reason(bytes(jpeg))
    assert MAX_PIXELS >= 100_000_000


def test_a_large_picture_within_the_limit_is_read_without_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.new("1", (10_000, 9_000)).save(path)
    code = f"from dinokit.images.read import size; print(size({str(path)!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("(9000, 10000)", "")
