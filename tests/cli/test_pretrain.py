"""`dinokit pretrain` from the shell: it trains, is interrupted, goes on, and is used by the other verbs."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

import dinokit
from dinokit.checkpoints.folders import hold
from dinokit.checkpoints.load import load_model
from dinokit.checkpoints.save import save_model
from dinokit.cli.app import main
from dinokit.data.opening import open_pictures
from dinokit.data.store import StreamedSquares

PICTURES = Path(__file__).parents[1] / "pictures"
SMALL = (
    "--set", "run.batch=4", "run.picture_side=48", "run.log_every=1", "run.save_every=2", "crops.global_size=32",
    "crops.local_size=16", "crops.local_number=2", "coding_rate.hidden=32", "coding_rate.projection=16",
)  # fmt: skip


def test_a_short_run_leaves_model_log_and_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(["pretrain", str(PICTURES), "--out", str(out), *SMALL, "run.steps=3"]) == 0
    said = capsys.readouterr().err
    assert "8 pictures from 1 data set\n" in said
    assert "done at step 3" in said
    assert (out / "report.html").is_file()
    assert main(["info", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] > 5_000_000


def test_interrupted_it_saves_and_the_same_command_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "dinokit", "pretrain", str(PICTURES), "--out", str(out), *SMALL]
    process = subprocess.Popen(
        [*command, "run.steps=100000"], stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    deadline = time.monotonic() + 120
    while not (out / "checkpoints" / "step-00000002").is_dir():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert "the same command goes on" in said
    steps = [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()]
    last = steps[-1]
    assert main([*command[3:], f"run.steps={last + 2}"]) == 0
    steps = [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(1, last + 3))


def test_the_budget_derives_the_run_and_what_was_set_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dinokit.pretrain.budget.LEAST_STEPS", 1)
    out = tmp_path / "run"
    assert main(["pretrain", str(PICTURES), "--out", str(out), "--budget", "6s", *SMALL]) == 0
    said = capsys.readouterr().err
    recipe = tomllib.loads((out / "recipe.toml").read_text())
    steps = recipe["run"]["steps"]
    assert f"batch 4, {steps} steps" in said
    assert f"done at step {steps}" in said
    assert recipe["optimizer"]["lr"] == 1e-3 * (4 / 64) ** 0.5
    assert abs(recipe["optimizer"]["cooldown"] - 0.2 * steps) <= 2
    assert (recipe["crops"]["global_size"], recipe["stages"]) == (32, [])


def test_a_run_from_another_model_goes_on_as_that_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = tmp_path / "start"
    backbone = dinokit.load("random:vit_small")
    info = replace(backbone.info, statistics=replace(backbone.info.statistics, mean=(0.5, 0.5, 0.5)))
    save_model(start, backbone.network.state_dict(), info)
    order = ["pretrain", str(PICTURES), "--out", str(tmp_path / "run"), "--init", str(start), *SMALL]
    assert main([*order, "run.steps=1"]) == 0
    shutil.rmtree(start)
    assert main([*order, "run.steps=2"]) == 0
    assert "going on from step 1" in capsys.readouterr().err
    model = load_model(tmp_path / "run")
    assert model.info.statistics.mean == (0.5, 0.5, 0.5)
    assert model.network.spec.width == 384


def test_a_run_that_cannot_be_written_is_refused_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["pretrain", str(PICTURES), "--out", str(tmp_path / "file" / "run")]) == 2
    said = capsys.readouterr().err
    assert "cannot write" in said
    assert "pictures from" not in said


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps, started with a seed."""
    out = tmp_path_factory.mktemp("finished") / "run"
    assert main(["pretrain", str(PICTURES), "--out", str(out), "--seed", "3", *SMALL, "run.steps=2"]) == 0
    return out


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def files(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file() and p.suffix != ".html"}


def test_a_finished_run_is_left_as_it_is(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(copy)
    more = ("--set", "run.steps=2", "crops.global_size=48")
    assert main(["pretrain", str(PICTURES), "--out", str(copy), "--seed", "3", *more]) == 0
    assert "the run ended at step 2: --set run.steps=4" in capsys.readouterr().err
    assert files(copy) == before


@pytest.mark.parametrize(
    "other", [("--seed", "4"), ("--init", "dinokit_vitt16"), ("--preset", "laptop"), ("--budget", "1h")]
)
def test_a_run_goes_on_only_as_it_was_started(
    copy: Path, other: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pretrain", str(PICTURES), "--out", str(copy), *other, "--set", "run.steps=3"]) == 2
    assert f"leave out {other[0]}" in capsys.readouterr().err
    assert main(["pretrain", str(PICTURES), "--out", str(copy), "--set", "run.steps=3"]) == 0


def test_a_lost_model_folder_is_made_again(copy: Path) -> None:
    shutil.rmtree(copy / "model")
    assert main(["pretrain", str(PICTURES), "--out", str(copy), "--set", "run.steps=3"]) == 0
    assert load_model(copy).info.name == "dinokit_vitt16"


def test_a_model_without_checkpoints_is_not_overwritten(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(copy / "checkpoints")
    before = files(copy)
    assert main(["pretrain", str(PICTURES), "--out", str(copy), *SMALL, "run.steps=3"]) == 2
    assert f"--init {copy}" in capsys.readouterr().err
    assert files(copy) == before


def test_a_log_of_something_else_is_not_emptied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log.jsonl").write_text("mine\n")
    assert main(["pretrain", str(PICTURES), "--out", str(tmp_path), *SMALL, "run.steps=3"]) == 2
    assert "another --out" in capsys.readouterr().err
    assert (tmp_path / "log.jsonl").read_text() == "mine\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--set", "dinov3.prototypes=64"), "dinov3.prototypes does nothing"),
        (("--set", "objective=dinov3", "coding_rate.epsilon=1"), "coding_rate.epsilon does nothing"),
        (("--budget", "1h", "--set", "run=3"), "run = 3 is one value"),
        (("--preset", "bytes.toml"), "cannot be read"),
    ],
)
def test_settings_that_could_not_work_are_refused(
    options: tuple[str, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    assert main(["pretrain", str(PICTURES), "--out", "run", *options]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.glob("run/[!.]*"))


def test_checkpoints_that_a_person_keeps_stay(copy: Path) -> None:
    kept = copy / "checkpoints" / "step-00000002-best"
    shutil.copytree(copy / "checkpoints" / "step-00000002", kept)
    assert main(["pretrain", str(PICTURES), "--out", str(copy), "--set", "run.steps=7"]) == 0
    assert kept.is_dir()
    assert json.loads((copy / "log.jsonl").read_text().splitlines()[-1])["step"] == 7


def test_two_processes_do_not_train_in_one_folder(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with hold(copy, "training"):
        assert main(["pretrain", str(PICTURES), "--out", str(copy), "--set", "run.steps=3"]) == 2
    assert "another process is training" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        ({"in_channels": 4}, [], "reads 4 channels"),
        ({"patch_size": 14}, [], "does not fit patches of 14 px"),
        ({}, ["network=dinov3_vitb16"], "is no dinov3_vitb16"),
        ({}, ["layer_scale=0.5"], "leave out --set layer_scale"),
    ],
)
def test_a_start_that_does_not_suit_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, int], settings: list[str], message: str
) -> None:
    backbone = dinokit.load("random:dinokit_vitt16", **changes)
    save_model(tmp_path / "start", backbone.network.state_dict(), backbone.info)
    order = ["pretrain", str(PICTURES), "--out", str(tmp_path / "run"), "--init", str(tmp_path / "start"), *SMALL]
    assert main([*order, "run.steps=1", *settings]) == 2
    assert message in capsys.readouterr().err


def test_a_convnext_is_not_pretrained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = load_model("random:dinov3_convnext_tiny", depths=(1, 1, 1, 1), widths=(8, 8, 8, 8))
    save_model(tmp_path / "start", model.network.state_dict(), model.info)
    order = ["pretrain", str(PICTURES), "--out", str(tmp_path / "run"), "--init", str(tmp_path / "start"), *SMALL]
    assert main([*order, "run.steps=1"]) == 2
    assert "is a ConvNeXt, which has no patches to mask: pretrain a ViT" in capsys.readouterr().err


def test_a_picture_that_cannot_be_read_on_the_way_votes_for_nothing(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i, path in enumerate(PICTURES.rglob("*.jpg")):
            shutil.copy(path, tmp_path / name / f"{i}.jpg")
    (tmp_path / "b" / "0.jpg").write_bytes(b"no picture")
    squares = StreamedSquares(open_pictures(str(tmp_path)), 32)
    bad = squares.pictures.key(len(squares) // 2)
    assert bad.endswith("b/0.jpg")
    squares.get([len(squares) // 2])
    assert squares.labels.tolist().count(-1) == 1


def test_help_names_the_presets(capsys: pytest.CaptureFixture[str]) -> None:
    presets = Path(dinokit.__file__).parent / "pretrain" / "presets"
    main(["pretrain", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    for path in presets.glob("*.toml"):
        assert path.stem in said
