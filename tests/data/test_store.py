"""Squares in memory and streamed: the same pixels, and an account of what was skipped."""

import shutil
from concurrent.futures import wait
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dinokit.data.folder import Folder
from dinokit.data.listing import SkippedFiles
from dinokit.data.mixture import Mixture
from dinokit.data.opening import open_pictures
from dinokit.data.store import StreamedSquares, bytes_needed, decode_all, gather
from dinokit.errors import UserError
from dinokit.pretrain.pictures import TrainingPictures

PHOTOS = sorted((Path(__file__).parent.parent / "pictures").glob("*.jpg"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number, path in enumerate(PHOTOS):
        folder = tmp_path / "photos" / ("odd" if number % 2 else "even")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / path.name)
    return tmp_path / "photos"


@pytest.fixture
def damaged(photos: Path) -> Path:
    jpeg = PHOTOS[0].read_bytes()
    (photos / "even/0-empty.jpg").write_bytes(b"")
    (photos / "even/1-cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (photos / "odd/2-text.jpg").write_bytes(b"no picture")
    (photos / "odd/3-video.jpg").write_bytes(b"\0\0\0\x20ftypisom" + bytes(100))
    return photos


def test_pictures_are_squashed_and_keep_their_aspect(photos: Path) -> None:
    pictures = Folder(photos)
    store = decode_all(pictures, 72, threads=2)
    assert store.pictures.shape == (len(PHOTOS), 3, 72, 72)
    assert store.pictures.dtype == torch.uint8
    assert store.classes == ("even", "odd")
    for i, key in enumerate(store.keys):
        image = Image.open(photos / key)
        assert store.labels[i] == store.classes.index(key.split("/")[0])
        assert store.aspects[i].item() == pytest.approx(image.width / image.height, rel=0.005)
        expected = np.asarray(image.resize((72, 72), Image.Resampling.BICUBIC)).astype(int)
        assert np.abs(store.pictures[i].permute(1, 2, 0).numpy().astype(int) - expected).max() <= 6
    assert store.pictures.nbytes == bytes_needed(len(PHOTOS), 72)
    squares, aspects = store.get([2, 0])
    assert torch.equal(squares, store.pictures[[2, 0]])
    assert torch.equal(aspects, store.aspects[[2, 0]])


def test_unreadable_pictures_are_skipped_and_listed_in_order(damaged: Path) -> None:
    skipped = SkippedFiles()
    calls: list[tuple[int, int]] = []
    store = decode_all(Folder(damaged), 32, 2, lambda done, total: calls.append((done, total)), skipped)
    assert len(store) == len(PHOTOS) == len(store.pictures) == len(store.labels)
    assert skipped.entries == [
        ("even/0-empty.jpg", "is empty"),
        ("even/1-cut.jpg", "is truncated"),
        ("odd/2-text.jpg", "is not a picture"),
        ("odd/3-video.jpg", "is a video"),
    ]
    assert calls[-1] == (12, 12)
    for i, key in enumerate(store.keys):  # the rows moved together with their keys
        alone = decode_all(open_pictures(damaged / key), 32)
        assert torch.equal(alone.pictures[0], store.pictures[i])
        assert alone.aspects[0] == store.aspects[i]


def test_no_readable_picture_is_an_error(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"has no readable picture, for example: a\.jpg is not a picture"):
        decode_all(Folder(tmp_path), 32)
    with pytest.raises(UserError, match="has no readable picture"):
        StreamedSquares(Folder(tmp_path), 32)
    with pytest.raises(UserError, match="side is 0"):
        decode_all(Folder(tmp_path), 0)


def test_the_number_of_threads_changes_nothing(photos: Path) -> None:
    one, three = (decode_all(Folder(photos), 40, threads) for threads in (1, 3))
    assert torch.equal(one.pictures, three.pictures)
    assert one.keys == three.keys


def test_streaming_gives_the_same_pixels_and_replaces_what_is_unreadable(damaged: Path) -> None:
    pictures = Folder(damaged)
    store = decode_all(pictures, 48)
    stream = StreamedSquares(pictures, 48, threads=2)
    numbers = [i for i in range(len(pictures)) if pictures.key(i) in store.keys]
    squares, aspects = stream.get(numbers)
    assert torch.equal(squares, store.pictures)
    assert torch.equal(aspects, store.aspects)
    assert torch.equal(stream.labels[numbers], store.labels)
    bad = [i for i in range(len(pictures)) if i not in numbers]
    first, again = stream.get(bad)[0], stream.get(np.array(bad))[0]
    assert torch.equal(first, again)
    fresh = StreamedSquares(pictures, 48, threads=1)
    assert torch.equal(fresh.get(bad[::-1])[0], first.flip(0))
    assert sorted(stream.skipped.entries) == sorted(fresh.skipped.entries)
    assert len(stream.skipped) == len(bad) == 4
    stream.close()
    fresh.close()


class Counting(Folder):
    """Says which pictures are read."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.reads: list[int] = []

    def read_bytes(self, i: int) -> bytes:
        self.reads.append(i)
        return super().read_bytes(i)


def test_the_next_batch_is_decoded_ahead_and_once(photos: Path) -> None:
    pictures = Counting(photos)
    store, stream = decode_all(pictures, 32), StreamedSquares(pictures, 32)
    training = TrainingPictures((stream,), Mixture([stream], seed=1), SkippedFiles())
    steps = [training.mixture.draw(4 * step, 4)[1].tolist() for step in range(4)]
    pictures.reads.clear()
    for step in range(3):
        assert torch.equal(training.batch(step, 4)[0], store.get(steps[step])[0])
        wait(stream._ahead.values())
        assert sorted(pictures.reads) == sorted(i for foreseen in steps[: step + 2] for i in foreseen)
    unforeseen = training.mixture.draw(4 * 9, 4)[1]
    assert torch.equal(training.batch(9, 4)[0], store.get(unforeseen)[0])
    stream.close()


def test_gathering_follows_the_mixture(photos: Path) -> None:
    even, odd = (decode_all(Folder(photos / name), 24) for name in ("even", "odd"))
    parts, indices = Mixture([even, odd], seed=5).draw(0, 20)
    squares, aspects = gather([even, odd], parts, indices)
    for row, (part, index) in enumerate(zip(parts, indices, strict=True)):
        store = (even, odd)[part]
        assert torch.equal(squares[row], store.pictures[index])
        assert aspects[row] == store.aspects[index]


def test_ctrl_c_in_the_progress_stops_at_once(photos: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decode_all(Folder(photos), 32, threads=2, progress=interrupt)
