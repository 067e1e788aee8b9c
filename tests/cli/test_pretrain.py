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
from dinokit.checkpoints.load import load_model
from dinokit.checkpoints.save import save_model
from dinokit.cli.app import main

PICTURES = Path(__file__).parents[1] / "pictures"
SMALL = (
    "--set", "run.batch=4", "run.picture_side=48", "run.log_every=1", "run.save_every=2", "crops.global_size=32",
    "crops.local_size=16", "crops.local_number=2", "coding_rate.hidden=32", "coding_rate.projection=16",
)  # fmt: skip


def test_a_short_run_leaves_model_log_and_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(["pretrain", str(PICTURES), "--out", str(out), *SMALL, "run.steps=3"]) == 0
    said = capsys.readouterr().err
    assert "8 pictures from 1 data sets" in said
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
    assert main(["pretrain", str(PICTURES), "--out", str(out), "--budget", "3s", *SMALL]) == 0
    said = capsys.readouterr().err
    recipe = tomllib.loads((out / "recipe.toml").read_text())
    steps = recipe["run"]["steps"]
    assert f"batch 4, {steps} steps" in said
    assert f"done at step {steps}" in said
    assert recipe["optimizer"]["lr"] == 1e-3 * (4 / 64) ** 0.5
    assert recipe["optimizer"]["cooldown"] == steps - sum(stage["steps"] for stage in recipe["stages"])
    assert {stage["global_size"] for stage in recipe["stages"]} == {32}


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
    assert "cannot write into" in said
    assert "pictures from" not in said
