"""Videos in and out: files, folders, and what people have instead of them."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from helpers_pictures import PHOTOS, photo
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dinokit.data.video import VideoWarning, open_video, video_writer
from dinokit.errors import UserError

WIDE = np.array(photo(320, 120))


def pan(number: int) -> np.ndarray:
    """Frame `number` of a camera that moves to the right over a photo: uint8 [120, 160, 3]."""
    return np.ascontiguousarray(WIDE[:, 4 * number : 4 * number + 160])


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty frames as H.264."""
    path = tmp_path_factory.mktemp("video") / "pan.mp4"
    with video_writer(path, 12.5) as write:
        for number in range(20):
            write(pan(number))
    return path


def turned(clip: Path, matrix: tuple[int, ...]) -> bytes:
    """The clip with another display matrix in its header, as phones write it."""
    content = bytearray(clip.read_bytes())
    place = content.index(b"tkhd") + 44
    for number, value in enumerate(matrix):
        content[place + 4 * number : place + 4 * number + 4] = value.to_bytes(4, "big", signed=True)
    return bytes(content)


def test_what_is_written_is_read(clip: Path) -> None:
    video = open_video(clip)
    assert (video.count, video.rate) == (20, 12.5)
    for _ in range(2):  # as often as wanted
        frames = list(video)
        assert len(frames) == 20
        for number, frame in enumerate(frames):
            assert frame.shape == (120, 160, 3)
            assert np.abs(frame.astype(int) - pan(number)).mean() < 6


@pytest.mark.parametrize(
    ("turns", "matrix"), [(-1, (0, 1, 0, -1, 0, 0)), (1, (0, -1, 0, 1, 0, 0)), (2, (-1, 0, 0, 0, -1, 0))]
)
def test_videos_of_phones_stand_upright(clip: Path, tmp_path: Path, turns: int, matrix: tuple[int, ...]) -> None:
    path = tmp_path / "phone.mp4"
    path.write_bytes(turned(clip, (*(value << 16 for value in matrix), 0, 0, 1 << 30)))
    plain, upright = next(iter(open_video(clip))), next(iter(open_video(path)))
    np.testing.assert_array_equal(upright, np.rot90(plain, turns))


def test_odd_sides_get_another_row_and_column(tmp_path: Path) -> None:
    with video_writer(tmp_path / "odd.mkv") as write:
        write(pan(0)[:119, :159])
    assert [frame.shape for frame in open_video(tmp_path / "odd.mkv")] == [(120, 160, 3)]


@settings(max_examples=20, deadline=None)
@given(places=st.lists(st.integers(0, 10**6), min_size=1, max_size=60), value=st.integers(0, 255))
def test_damaged_files_give_what_they_have(clip: Path, places: list[int], value: int) -> None:
    content = bytearray(clip.read_bytes())
    start, end = content.index(b"mdat") + 4, content.index(b"moov") - 4
    for place in places:
        content[start + place % (end - start)] = value
    path = clip.with_name("damaged.mp4")
    path.write_bytes(content)
    try:
        with warnings.catch_warnings(action="ignore", category=VideoWarning):
            count = len(list(open_video(path)))
    except UserError as error:
        assert "no frame that can be decoded" in str(error)  # noqa: PT017
    else:
        assert 0 < count <= 20


def test_a_file_that_ends_early_is_said_to(tmp_path: Path) -> None:
    path = tmp_path / "short.mkv"
    with video_writer(path) as write:
        for number in range(20):
            write(pan(number))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 9 // 10])
    with pytest.warns(VideoWarning, match=r"short\.mkv is damaged: \d+ of 20 frames were read"):
        frames = list(open_video(path))
    assert 0 < len(frames) < 20


def test_folders_and_lists_are_videos(tmp_path: Path) -> None:
    for number in (2, 10, 1):
        Image.fromarray(pan(number)).save(tmp_path / f"{number:03d}.png")
    video = open_video(tmp_path)
    assert (video.count, video.names) == (3, ("001", "002", "010"))
    for found, number in zip(video, (1, 2, 10), strict=True):
        np.testing.assert_array_equal(found, pan(number))
    as_list = open_video([tmp_path / "010.png", tmp_path / "001.png"])
    assert as_list.names == ("010", "001")
    stream = open_video(pan(number) for number in range(3))
    assert [frame.shape for frame in stream] == [(120, 160, 3)] * 3


def refuse(source: object) -> str:
    """What is said of a video that is none."""
    with pytest.raises(UserError) as caught:
        list(open_video(source))  # type: ignore[arg-type]
    return str(caught.value)


def test_what_is_no_video_is_refused(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[:2000])
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "page.mp4").write_text("<!doctype html><html></html>")
    (tmp_path / "picture.mp4").write_bytes(PHOTOS[0].read_bytes())
    (tmp_path / "none").mkdir()
    assert "is a picture, not a video" in refuse(PHOTOS[0])
    assert "is a picture, not a video" in refuse(tmp_path / "picture.mp4")
    assert "is damaged or no video" in refuse(tmp_path / "cut.mp4")
    assert "is empty" in refuse(tmp_path / "empty.mp4")
    assert "web page" in refuse(tmp_path / "page.mp4")
    assert "has no pictures" in refuse(tmp_path / "none")
    assert "is not found" in refuse(tmp_path / "missing.mp4")
    assert "no frame" in refuse([])
    assert re.search(r"frame 1 of .* has 160 x 100 px where the first has 160 x 120", refuse([pan(0), pan(0)[:100]]))


def test_places_that_cannot_be_written_are_said_before_the_work(tmp_path: Path) -> None:
    frames = [np.zeros((2, 2, 3), np.uint8)]
    assert "no name for a video" in _write_error(tmp_path / "out.txt", frames)
    assert "cannot write" in _write_error(tmp_path / "nowhere" / "out.mp4", frames)


def _write_error(path: Path, frames: list[np.ndarray]) -> str:
    with pytest.raises(UserError) as caught:
        _write(path, frames)
    return str(caught.value)


def _write(path: Path, frames: list[np.ndarray]) -> None:
    with video_writer(path) as write:
        for frame in frames:
            write(frame)


def test_interrupted_videos_hold_what_there_was(tmp_path: Path) -> None:
    def work() -> None:
        with video_writer(tmp_path / "part.mp4") as write:
            write(pan(0))
            write(pan(1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert len(list(open_video(tmp_path / "part.mp4"))) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["part.mp4"]
