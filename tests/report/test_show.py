"""`dinokit show`: pictures of features beside the originals, never over them."""

import os
from pathlib import Path

import pytest
from PIL import Image

from dinokit.cli.app import main

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


def test_a_strip_of_too_many_patches_is_skipped_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (140_000, 1)).save("strip.png")
    assert main([*SHOW, "cat.png", "strip.png"]) == 0
    captured = capsys.readouterr()
    assert captured.out.split() == ["maps/cat-features.png"]
    assert captured.err.startswith("warning: strip.png has too many patches at size 32")


def test_file_names_that_are_no_text(capsys: pytest.CaptureFixture[str]) -> None:
    os.rename("cat.png", b"caf\xe9\x1b.png")
    assert main([*SHOW, os.fsdecode(b"caf\xe9\x1b.png")]) == 0
    assert capsys.readouterr().out == "maps/caf?-features.png\n"
    assert os.listdir(b"maps") == [b"caf\xe9\x1b-features.png"]
