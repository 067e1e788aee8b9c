"""From photos to the page, with a stand-in for the network."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dinokit.backbones.features import Features
from dinokit.cli.app import main
from dinokit.errors import UserError
from dinokit.report import demo
from dinokit.report.bundled_photos import TWO_VIEWS
from dinokit.report.demo_page import LARGEST_SIDE


class MeanColours:
    """A backbone whose features are the mean colours of 16 x 16 cells."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def encode(self, picture: np.ndarray[Any, Any], size: int) -> Features:
        self.sizes.append(size)
        small = np.asarray(Image.fromarray(picture).resize((6, 4)), np.float32)
        patches = torch.from_numpy(small)[None]
        return Features(cls=patches.mean((1, 2)), registers=patches[:, 0, :0], patches=patches)


def save(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (96, 64)) -> Path:
    Image.new("RGB", size, colour).save(path)
    return path


def test_the_photos_of_the_package_are_matched_as_two_views() -> None:
    photos, remark = demo.choose_photos(None)
    assert remark == ""
    encoded = list(demo.encode_photos(photos, MeanColours(), 448, pytest.fail))
    pair = demo.choose_pair(encoded, photos)
    assert pair is not None
    assert tuple(photos[i].path.name for i in pair) == TWO_VIEWS
    about = demo.describe(encoded, "some/where/mine", 16, 448, 3.2)
    assert about["model"] == "mine"
    assert about["photos"] == "12"


def test_in_a_folder_the_two_most_alike_are_matched(tmp_path: Path) -> None:
    for name, colour in (("a", (250, 0, 0)), ("b", (0, 250, 0)), ("c", (240, 10, 0))):
        save(tmp_path / f"{name}.png", colour)
    photos, _ = demo.choose_photos(str(tmp_path))
    encoded = list(demo.encode_photos(photos, MeanColours(), 448, pytest.fail))
    assert demo.choose_pair(encoded, photos) == (0, 2)
    assert demo.choose_pair(encoded[:1], photos) is None


def test_a_large_folder_is_cut_and_says_so(tmp_path: Path) -> None:
    for i in range(demo.MOST_PHOTOS + 2):
        save(tmp_path / f"{i:02}.png", (i, i, i), (8, 8))
    photos, remark = demo.choose_photos(str(tmp_path))
    assert len(photos) == demo.MOST_PHOTOS
    assert remark == "showing the first 24 of 26 photos"


def test_a_long_panorama_is_read_smaller(tmp_path: Path) -> None:
    save(tmp_path / "wide.png", (9, 9, 9), (800, 100))
    save(tmp_path / "usual.png", (9, 9, 9))
    backbone = MeanColours()
    list(demo.encode_photos(demo.choose_photos(str(tmp_path))[0], backbone, 448, pytest.fail))
    assert backbone.sizes == [448, 224]


def test_unreadable_photos_are_skipped_with_a_warning(tmp_path: Path) -> None:
    save(tmp_path / "good.png", (1, 2, 3))
    (tmp_path / "bad.jpg").write_text("no picture")
    warnings: list[str] = []
    encoded = list(demo.encode_photos(demo.choose_photos(str(tmp_path))[0], MeanColours(), 448, warnings.append))
    assert [photo.name for photo in encoded] == ["good"]
    assert len(warnings) == 1
    assert "bad.jpg" in warnings[0]


@pytest.mark.parametrize("count", [1, 3])
def test_no_readable_photo_is_one_error(tmp_path: Path, count: int) -> None:
    for i in range(count):
        (tmp_path / f"bad{i}.jpg").write_text("no picture")
    photos, _ = demo.choose_photos(str(tmp_path))
    with pytest.raises(UserError, match=r"bad0\.jpg is not a picture"):
        list(demo.encode_photos(photos, MeanColours(), 448, pytest.fail))


def test_a_folder_without_pictures_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("text")
    with pytest.raises(UserError, match="no pictures in"):
        demo.choose_photos(str(tmp_path))


def test_photos_are_kept_as_small_as_they_are_shown(tmp_path: Path) -> None:
    save(tmp_path / "large.png", (9, 9, 9), (1600, 1200))
    [photo] = demo.encode_photos(demo.choose_photos(str(tmp_path))[0], MeanColours(), 448, pytest.fail)
    assert photo.picture.shape == (LARGEST_SIDE * 3 // 4, LARGEST_SIDE, 3)


def test_file_names_that_are_no_text_make_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.rename(save(tmp_path / "a.png", (9, 9, 9), (40, 32)), os.fsencode(tmp_path) + b"/caf\xe9\n.png")
    out = os.fsdecode(os.fsencode(tmp_path) + b"/p\xe9")
    options = ["--model", "random:dinokit_vitt16", "--size", "32", "--device", "cpu"]
    assert main(["demo", str(tmp_path), "--out", out, *options]) == 0
    assert "/p?/index.html in a browser" in capsys.readouterr().out
    assert '"name":"caf?"' in Path(out, "index.html").read_text(encoding="utf-8")
