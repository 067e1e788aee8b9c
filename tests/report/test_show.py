"""`dinokit show`: pictures of features beside the originals, never over them."""

import inspect
import os
from pathlib import Path

import pytest
from PIL import Image

from dinokit.cli.app import main
from dinokit.cli.verbs.demo import demo
from dinokit.cli.verbs.show import show

SHOW = ("show", "--model", "random:dinokit_vitt16", "--size", "32", "--device", "cpu")


@pytest.fixture(autouse=True)
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("more").mkdir()
    for name in ("cat.png", "more/cat.png"):
        Image.new("RGB", (48, 32), (200, 30, 90)).save(name)


def test_features_lie_beside_the_originals(capsys: pytest.CaptureFixture[str]) -> None:
    before = Path("cat.png").read_bytes()
    assert main([*SHOW, "cat.png", "more/cat.png", "--out", "."]) == 0
    assert capsys.readouterr().out.split() == ["cat-features.png", "cat-features-2.png"]
    assert Path("cat.png").read_bytes() == before
    with Image.open("cat-features.png") as picture:
        assert picture.width > 2 * picture.height


def test_a_picture_is_never_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    os.rename("more/cat.png", "more/cat-features.png")
    before = Path("more/cat-features.png").read_bytes()
    assert main([*SHOW, "cat.png", "more", "--out", "more"]) == 2
    assert "more/cat-features.png is one of the pictures and would be overwritten" in capsys.readouterr().err
    assert Path("more/cat-features.png").read_bytes() == before


def test_a_strip_of_too_many_patches_is_skipped_by_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (140_000, 1)).save("strip.png")
    monkeypatch.setattr("dinokit.images.geometry.MAX_PATCHES", 100)
    assert main([*SHOW, "cat.png", "strip.png"]) == 0
    captured = capsys.readouterr()
    assert captured.out.split() == ["maps/cat-features.png"]
    assert captured.err.startswith("warning: strip.png has too many patches")


def test_long_names_are_shortened_and_stay_apart(capsys: pytest.CaptureFixture[str]) -> None:
    for ending in "ab":
        os.link("cat.png", "ü" * 120 + f"{ending}.png")
    assert main([*SHOW, "ü" * 120 + "a.png", "ü" * 120 + "b.png"]) == 0
    names = capsys.readouterr().out.split()
    assert [Path(name).name for name in names] == ["ü" * 90 + "-features.png", "ü" * 90 + "-features-2.png"]
    assert all(Path(name).is_file() for name in names)


def test_show_and_demo_read_at_one_size() -> None:
    defaults = [inspect.signature(verb).parameters["size"].default for verb in (show, demo)]
    assert defaults[0] == defaults[1]


def test_a_refused_show_leaves_no_folder() -> None:
    Path("bad.jpg").write_text("no picture")
    assert main([*SHOW, "bad.jpg"]) == 2
    assert not Path("maps").exists()


def test_file_names_that_are_no_text(capsys: pytest.CaptureFixture[str]) -> None:
    os.rename("cat.png", b"caf\xe9\x1b.png")
    assert main([*SHOW, os.fsdecode(b"caf\xe9\x1b.png")]) == 0
    assert capsys.readouterr().out == "maps/caf?-features.png\n"
    assert os.listdir(b"maps") == [b"caf\xe9\x1b-features.png"]
