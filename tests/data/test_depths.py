"""Depth maps: every format gives the same metres, and what is wrong with one is said with its name."""

import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from dinokit.data.depths import ENDINGS, Depths, read_depth, write_depth
from dinokit.data.pairs import DEPTHS, open_pairs
from dinokit.data.track import silent
from dinokit.errors import UserError
from dinokit.images.exr import read_exr
from dinokit.images.kinds import UnreadableError
from dinokit.images.maps import MapFile

LIMITS = (0.001, 10.0)
METRES = np.linspace(0.5, 4, 6 * 8, dtype=np.float32).reshape(6, 8)
TALL = [b"Pf\n8 6\n-1.0\n", b"Pf\n8 6\n1.0\n"]


def put(folder: Path, name: str, content: np.ndarray | bytes) -> Path:
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif name.endswith(".npy"):
        np.save(path, content)
    else:
        Image.fromarray(content).save(path)
    return path


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_written_is_read(ending: str, tmp_path: Path) -> None:
    path = put(tmp_path, f"map{ending}", write_depth(METRES, ending))
    assert np.abs(read_depth(MapFile.of(path), LIMITS) - METRES).max() <= (0.0005 if ending == ".png" else 0)


@given(arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.floats(0, 1e6, width=32)))
def test_exr_keeps_every_value(values: np.ndarray) -> None:
    assert np.array_equal(read_exr(write_depth(values, ".exr")), values)


def test_exr_is_read_by_others_and_theirs_here(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    with av.open(str(put(tmp_path, "map.exr", write_depth(METRES, ".exr")))) as file:
        frame = next(file.decode(video=0))
    rows = np.frombuffer(bytes(frame.planes[0]), np.float32).reshape(6, -1)[:, :8]
    assert np.array_equal(rows, METRES)
    for compression in ("none", "zip1", "zip16"):
        assert np.array_equal(read_exr(encode_exr(av, np.repeat(METRES, 5, axis=0), compression))[::5], METRES)
    with pytest.raises(UnreadableError) as caught:
        read_exr(encode_exr(av, METRES, "rle"))
    assert "save it uncompressed" in caught.value.finding.hint


def encode_exr(av: object, values: np.ndarray, compression: str) -> bytes:
    """As FFmpeg writes it."""
    height, width = values.shape
    codec = av.CodecContext.create("exr", "w")  # type: ignore[attr-defined]
    codec.width, codec.height, codec.pix_fmt, codec.time_base = width, height, "grayf32le", 1
    codec.options = {"compression": compression}
    frame = av.VideoFrame(width, height, "grayf32le")  # type: ignore[attr-defined]
    padded = np.zeros((height, frame.planes[0].line_size // 4), np.float32)
    padded[:, :width] = values
    frame.planes[0].update(padded.tobytes())
    return b"".join(bytes(packet) for packet in [*codec.encode(frame), *codec.encode(None)])


def test_damaged_exr_is_an_error_and_nothing_else() -> None:
    whole, generator = write_depth(METRES, ".exr"), np.random.default_rng(0)
    for cut in range(0, len(whole) - 1, 7):
        with pytest.raises(UnreadableError):
            read_exr(whole[:cut])
    for _ in range(300):
        changed = bytearray(whole)
        for place in generator.integers(0, len(whole), 4):
            changed[place] = generator.integers(0, 256)
        try:
            assert read_exr(bytes(changed)).ndim == 2
        except UnreadableError:
            continue


def test_exr_that_would_unpack_to_far_more_is_refused() -> None:
    content, one = write_depth(METRES, ".exr"), b"Y\0" + struct.pack("<i4xii", 2, 1, 1) + b"\0"
    many = b"".join(name + b"\0" + struct.pack("<i4xii", 2, 1, 1) for name in (b"Z", *[b"c"] * 5000)) + b"\0"
    start = b"channels\0chlist\0"
    bomb = content.replace(start + struct.pack("<i", len(one)) + one, start + struct.pack("<i", len(many)) + many)
    with pytest.raises(UnreadableError, match="has 5001 channels of 8 px a row"):
        read_exr(bomb)


def test_pfm_of_both_byte_orders_stands_upright(tmp_path: Path) -> None:
    for start, order in zip(TALL, "<>", strict=True):
        path = put(tmp_path, "map.pfm", start + METRES[::-1].astype(f"{order}f4").tobytes())
        assert np.array_equal(read_depth(MapFile.of(path), LIMITS), METRES)


def test_unknown_depth_is_zero(tmp_path: Path) -> None:
    values = METRES.copy()
    values[0, :4] = [0, np.nan, np.inf, 11]
    assert np.array_equal(read_depth(MapFile.of(put(tmp_path, "map.npy", values)), LIMITS)[0, :4], [0, 0, 0, 0])


def test_outdoor_depths_need_another_range(tmp_path: Path) -> None:
    path = put(tmp_path, "map.npy", METRES * 1000)
    assert read_depth(MapFile.of(path), (1, 5000)).max() == 4000


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("map.png", (METRES * 50).astype(np.uint8), "8 bits, and 256 steps are too few"),
        ("map.png", np.round(METRES).astype(np.uint16), "look like metres: 16-bit files are read as millimetres"),
        ("map.npy", METRES * 1000, "look like millimetres: floats are read as metres"),
        ("map.npy", METRES - 1, "negative depth"),
        ("map.npy", METRES[None], "no array of numbers"),
        ("map.npy", METRES[:0], "has 8 x 0 values"),
        ("map.npy", b"\x93NUMPY", "cannot be read"),
        ("map.png", np.zeros((6, 8, 3), np.uint8), "has colours"),
        ("map.png", b"\x89PNG\r\n\x1a\nno more", "cannot be read"),
        ("map.pfm", b"Pf\n8 6\n-1.0\n" + bytes(20), "cannot be read"),
        ("map.pfm", b"PF\n8 6\n-1.0\n" + bytes(600), "cannot be read"),
        ("map.exr", b"v/1\x01" + bytes(30), "is a damaged EXR file"),
        ("map.exr", b"no EXR", "is no EXR file"),
        ("map.exr", write_depth(METRES, ".exr")[:-5], "is a damaged EXR file"),
    ],
)
def test_a_wrong_map_is_named(name: str, content: np.ndarray | bytes, said: str, tmp_path: Path) -> None:
    path = put(tmp_path, name, content)
    with pytest.raises(UserError, match=said) as caught:
        read_depth(MapFile.of(path), LIMITS)
    assert str(path) in str(caught.value)


def test_other_endings_are_refused() -> None:
    with pytest.raises(UserError, match=r"\.jpg"):
        write_depth(METRES, ".jpg")


def pairs_of(folder: Path, maps: dict[str, np.ndarray]) -> Path:
    for kind in ("rgb", "depth"):
        (folder / kind).mkdir()
    for name, values in maps.items():
        Image.new("RGB", (8, 6)).save(folder / "rgb" / f"{name}.png")
        np.save(folder / "depth" / f"{name}.npy", values)
    return folder


def test_maps_without_depth_are_left_out_and_said(tmp_path: Path) -> None:
    folder = pairs_of(tmp_path, {"a": METRES, "b": METRES * 0, "c": METRES * 2})
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        depths = Depths(open_pairs(folder, DEPTHS), LIMITS, silent)
    assert len(depths) == 2
    assert [Path(depths.pairs.place(i)).stem for i in range(2)] == ["a", "c"]
    assert np.array_equal(depths[1], METRES * 2)
    assert "b.npy left out" in str(said[0].message)


def test_no_depth_at_all_is_refused(tmp_path: Path) -> None:
    pairs = open_pairs(pairs_of(tmp_path, {"a": METRES * 0}), DEPTHS)
    with pytest.raises(UserError, match=r"between 0\.001 and 10 m"):
        Depths(pairs, LIMITS, silent)


def test_a_map_of_another_size_is_refused(tmp_path: Path) -> None:
    pairs = open_pairs(pairs_of(tmp_path, {"a": METRES.T}), DEPTHS)
    with pytest.raises(UserError, match="is 6 x 8 px, its picture 8 x 6"):
        Depths(pairs, LIMITS, silent)
