"""`dinokit pretrain` from the shell: it trains, is interrupted, goes on, and is used by the other verbs."""

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

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


def test_the_budget_derives_the_run_and_what_was_set_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    order = ["pretrain", str(PICTURES), "--out", str(out), "--budget", "1h", *SMALL, "run.steps=2"]
    assert main([*order, "optimizer.warmup=1", "optimizer.cooldown=1", "stages=[]"]) == 0
    assert "batch 4, 2 steps; crops 32/16 px" in capsys.readouterr().err
    recipe = tomllib.loads((out / "recipe.toml").read_text())
    assert recipe["coding_rate"]["patch_after"] > 100  # the end of the first stage of an hour
    assert recipe["dinov3"]["prototypes"] == 512


def test_a_run_that_cannot_be_written_is_refused_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["pretrain", str(PICTURES), "--out", str(tmp_path / "file" / "run")]) == 2
    said = capsys.readouterr().err
    assert "cannot write into" in said
    assert "pictures from" not in said
