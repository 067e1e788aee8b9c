"""`dinokit segment` and `dinokit cache` as a person types them."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers_labels import NAMES, PICTURES, segmentation_folder
from PIL import Image

from dinokit.checkpoints.folders import hold
from dinokit.cli.app import main

pytestmark = pytest.mark.usefixtures("one_thread")
PICTURE = str(PICTURES / f"{NAMES[0]}.jpg")
QUICK = ["--size", "96", "--layers", "-2", "-1", "--steps", "20", "--batch", "4", "--lr", "5e-3", "--precision", "fp32"]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DINOKIT_CACHE", str(tmp_path / "cache"))


def test_from_masks_to_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, head, out = segmentation_folder(tmp_path / "data"), str(tmp_path / "head"), tmp_path / "out"
    code, said, _ = run(capsys, "segment", "fit", str(data), "--out", head, *QUICK, "--json")
    assert code == 0
    fitted = json.loads(said)
    assert fitted["classes"] == ["background", "person", "thing"]
    assert 0 < fitted["step"] <= 20

    code, _, err = run(capsys, "segment", "fit", str(data), "--out", head, *QUICK)
    assert code == 2
    assert "holds a head already" in err

    code, said, _ = run(capsys, "segment", "predict", head, PICTURE, PICTURE, "--out", str(out), "--flip", "--json")
    assert code == 0
    first, second = json.loads(said)["pictures"]
    assert Path(first["labels"]) == out / f"{NAMES[0]}.png"
    assert Path(second["labels"]) == out / f"{NAMES[0]}-2.png"
    assert sum(first["shares"].values()) == pytest.approx(1, abs=1e-3)
    with Image.open(first["labels"]) as labels, Image.open(PICTURE) as picture:
        assert labels.size == picture.size
        assert labels.mode == "P"
        assert np.array(labels).max() < 3
    assert (out / f"{NAMES[0]}-drawn.jpg").exists()

    code, _, err = run(capsys, "segment", "predict", head, str(out / f"{NAMES[0]}.png"), "--out", str(out))
    assert code == 2
    assert "would be overwritten" in err

    code, said, _ = run(capsys, "segment", "evaluate", head, str(data), "--precision", "fp32", "--json")
    assert code == 0
    assert set(json.loads(said)["iou"]) == {"background", "person", "thing"}

    code, said, _ = run(capsys, "cache", "info", "--json")
    assert code == 0
    assert json.loads(said)["entries"] == len(NAMES)
    assert run(capsys, "cache", "clear")[0] == 0
    assert json.loads(run(capsys, "cache", "info", "--json")[1])["entries"] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fit", "nowhere", "--out", "head"], "nowhere is not found"),
        (["fit", PICTURE, "--out", "head"], "is no folder, CSV or COCO file"),
        (["predict", "no-head", PICTURE], "no-head holds no head"),
        (["evaluate", "no-head", "data"], "no-head holds no head"),
        (["fit"], "segment fit --help"),
        (["fitt"], "Did you mean"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, "segment", *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


def test_balance_and_augmentation_reach_the_head(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, heads = segmentation_folder(tmp_path / "data"), []
    for number, options in enumerate(((), ("--balance", "1"), ("--augment",))):
        out = tmp_path / f"head-{number}"
        assert run(capsys, "segment", "fit", str(data), "--out", str(out), *QUICK, *options)[0] == 0
        heads.append((out / "head.safetensors").read_bytes())
    assert len(set(heads)) == 3


def test_one_training_at_a_time_and_no_folder_for_a_refused_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, head = segmentation_folder(tmp_path / "data"), tmp_path / "head"
    with hold(head, "training"):
        code, _, err = run(capsys, "segment", "fit", str(data), "--out", str(head), *QUICK)
    assert (code, "another process is training in" in err) == (2, True)
    code, _, err = run(capsys, "segment", "fit", str(tmp_path / "typo"), "--out", str(head), *QUICK)
    assert code == 2
    assert not head.exists()


def test_a_name_that_no_file_can_have_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "segment", "predict", "n" * 300, PICTURE, "--out", str(tmp_path / "out"))
    assert code == 2
    assert err.count("\n") == 1
    assert "File name too long" in err
