"""`dinokit discover` as it is typed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinokit.cli.app import main

PLANE = Path(__file__).parents[1] / "pictures" / "000000208901.jpg"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copy(PLANE, tmp_path / "plane.jpg")
    return tmp_path


def run(line: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(["discover", *line.split(), "--size", "96", "--device", "cpu"])
    said = capsys.readouterr()
    return int(code or 0), said.out, said.err


def test_every_kind_of_discovery_writes_its_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = run("plane.jpg --out found --json", capsys)
    assert code == 0
    [row] = json.loads(said)["pictures"]
    assert row["boxes"]
    content = json.loads((folder / "found" / "boxes.json").read_text())
    assert content["images"][0]["file_name"] == "plane.jpg"
    for what in ("segments --layer -1", "colours", "similar"):
        assert run(f"plane.jpg --out found --what {what}", capsys)[0] == 0
    names = {path.name for path in (folder / "found").iterdir()}
    assert names == {
        "boxes.json",
        "plane-foreground.png",
        "plane-mask.png",
        "plane-segments.png",
        "plane-segments-drawn.png",
        "plane-colours.png",
        "plane-similar.png",
    }


def test_boxes_of_an_earlier_run_are_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.open(PLANE).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "other.png")
    for picture in ("plane.jpg", "other.png", "plane.jpg"):
        assert run(f"{picture} --out found", capsys)[0] == 0
    content = json.loads((folder / "found" / "boxes.json").read_text())
    assert [one["maps"] for one in content["images"]] == ["plane", "other"]
    assert [one["file_name"] for one in content["images"]] == ["plane.jpg", "other.png"]
    assert {one["image_id"] for one in content["annotations"]} == {1, 2}
    (folder / "more").mkdir()
    shutil.copy(folder / "other.png", folder / "more" / "plane.png")
    before = (folder / "found" / "plane-mask.png").read_bytes()
    assert run("more/plane.png --out found", capsys)[0] == 0
    assert (folder / "found" / "plane-mask.png").read_bytes() == before, "boxes.json has its boxes"
    assert (folder / "found" / "plane-2-mask.png").read_bytes() == (folder / "found" / "other-mask.png").read_bytes()
    content = json.loads((folder / "found" / "boxes.json").read_text())
    first = {path.name: path.read_bytes() for path in (folder / "found").glob("*-mask.png")}
    content["images"] = [one for one in content["images"] if one["file_name"] != "plane.jpg"]
    left = {one["id"] for one in content["images"]}
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] in left]
    (folder / "found" / "boxes.json").write_text(json.dumps(content))
    assert run("more/plane.png --out found", capsys)[0] == 0
    again = {path.name: path.read_bytes() for path in (folder / "found").glob("*-mask.png")}
    assert again == first, "it keeps its name, whatever became of the other"
    (folder / "found" / "boxes.json").write_text("[1]")
    code, _, wrong = run("plane.jpg --out found", capsys)
    assert code == 2
    assert "boxes.json holds no boxes that were found here: remove it" in wrong


def test_one_broken_picture_does_not_end_the_work(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "broken.jpg").write_bytes(PLANE.read_bytes()[:300])
    Image.fromarray(np.full((60, 80, 3), 90, np.uint8)).save(folder / "grey.png")
    code, said, warned = run("broken.jpg grey.png plane.jpg --out found", capsys)
    assert code == 0
    assert "plane-mask.png" in said
    assert "broken.jpg" in warned
    assert "skipped" in warned


@pytest.mark.parametrize(
    ("width", "line", "said"),
    [
        (30_000, "", "other.png has too many patches at size 96; skipped (at most"),
        (
            30,
            "--what similar --point 100 5",
            "other.png has 30 x 10 px, and the point 100, 5 lies outside; skipped (give",
        ),
    ],
)
def test_a_picture_of_other_form_does_not_end_the_work(
    folder: Path, width: int, line: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.full((10, width, 3), 90, np.uint8)).save(folder / "other.png")
    code, written, warned = run(f"other.png plane.jpg --out found {line}", capsys)
    assert code == 0
    assert said in warned
    assert "found/plane-" in written
    assert "found/other-" not in written


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("plane.jpg --what similar --point 9999 3", "plane.jpg has 256 x 171 px, and the point 9999, 3 lies outside"),
        ("plane.jpg --point 3 3", "--point says nothing about foreground"),
        ("plane.jpg --what colours --count 99", "--count says nothing about colours"),
        ("plane.jpg --what colours --threshold 0.3", "--threshold says nothing about colours"),
        ("plane.jpg --layer -40", "there is no block -40"),
        ("plane.jpg --what segments --count 300", "count is 300"),
        ("plane.jpg --what segments --count 200", "are too many"),
        ("plane.jpg --out found.png", "is the name of a picture"),
        ("plane.jpg --threshold 3", "threshold is 3"),
        ("nothing.jpg", "nothing.jpg"),
    ],
)
def test_what_cannot_work_is_one_line(folder: Path, line: str, fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, said, wrong = run(line, capsys)
    assert code == 2
    assert said == ""
    assert fault in wrong
    assert wrong.count("\n") == 1
