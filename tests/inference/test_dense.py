"""`dinokit features`: a file a picture, equal to `encode`, and nothing lost when it is stopped halfway."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers_faults import Killed, killed_at, moments
from PIL import Image
from safetensors.numpy import load_file

from dinokit.checkpoints.folders import hold
from dinokit.errors import UserError
from dinokit.inference.backbone import load
from dinokit.inference.dense import DenseSettings, write_features

pytestmark = pytest.mark.usefixtures("one_thread")

MODEL = "random:dinokit_vitt16"
REAL = Path(__file__).parents[1] / "pictures"
SLOW = """
import signal, sys, time, torch
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have switched it off
from pathlib import Path
from dinokit.inference import dense
torch.set_num_threads(1)
work = dense.write_atomically
def slow(path, content):
    work(path, content)
    if path.suffix == ".safetensors":
        Path(sys.argv[3]).touch()
        time.sleep(0.05)
dense.write_atomically = slow
from dinokit.cli.app import main
sys.exit(main(["features", sys.argv[1], "--out", sys.argv[2], "--model", sys.argv[4], "--size", "64"]))
"""


def write(source: Path | list[Path], out: Path, **options: Any) -> dict[str, Any]:
    def track(items: Iterable[Any], total: int, label: str, done: int = 0) -> Iterable[Any]:
        return items

    say = options.pop("say", print)
    sources = [str(path) for path in (source if isinstance(source, list) else [source])]
    return write_features(sources, out, load(MODEL), DenseSettings(**{"size": 64, **options}), track, say)


def entries(out: Path, name: str = "features.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / name).read_text().splitlines()]


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if not path.name.startswith(".")}


def test_files_hold_the_patches_of_encode_and_the_manifest_says_where_cells_lie(tmp_path: Path) -> None:
    summary = write(REAL, tmp_path / "f")
    assert (summary["files"], summary["skipped"]) == (8, 0)
    backbone = load(MODEL)
    lines = entries(tmp_path / "f")
    assert [line["path"] for line in lines] == [str(path) for path in sorted(REAL.glob("*.jpg"))]
    for line in lines:
        features = backbone.encode(line["path"], size=64)
        found = load_file(tmp_path / "f" / line["file"])["patches"]
        assert found.dtype == np.float16
        assert found.shape == (line["rows"], line["cols"], 192) == tuple(features.patches.shape[1:])
        right = features.patches[0].numpy()
        assert np.abs(found - right).max() < 0.03 * np.abs(right).max()  # bfloat16, other batches
        assert features.grid is not None
        assert (line["height"], line["width"]) == features.grid.sizes[0]
        cells = torch.tensor([[0, 0], [2, 3], [line["rows"] - 1, line["cols"] - 1]])
        pixels = np.array(line["origin"]) + cells.numpy()[:, ::-1] * np.array(line["step"])
        np.testing.assert_allclose(pixels, features.grid.to_pixels(cells).numpy())


def test_npy_holds_the_same(tmp_path: Path) -> None:
    write(REAL, tmp_path / "s")
    write(REAL, tmp_path / "n", format="npy")
    for one, other in zip(entries(tmp_path / "s"), entries(tmp_path / "n"), strict=True):
        assert other["file"] == one["file"].replace(".safetensors", ".npy")
        left, right = load_file(tmp_path / "s" / one["file"])["patches"], np.load(tmp_path / "n" / other["file"])
        assert right.dtype == np.float16
        np.testing.assert_allclose(left.astype(float), right.astype(float), atol=0.05)


def test_names_cannot_collide_or_leave_the_folder(tmp_path: Path) -> None:
    names = ["a/x.png", "b/x.png", "b/x.jpg", "-...png", "caf\udce9 \n.png", "n" * 200 + ".png", "features.jsonl.png"]
    for name in names:
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
        os.rename(tmp_path / "a.png", tmp_path / "photos" / name)
    assert write(tmp_path / "photos", tmp_path / "f")["files"] == len(names)
    files = [line["file"] for line in entries(tmp_path / "f")]
    assert len(set(files)) == len(names)
    assert all((tmp_path / "f" / name).parent == tmp_path / "f" and len(name) < 100 for name in files)
    assert set(os.listdir(tmp_path)) == {"photos", "f"}
    assert set(contents(tmp_path / "f")) == {*files, "features.jsonl", "job.json"}


def test_unreadable_pictures_are_listed(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.jpg").write_bytes((REAL / "000000000790.jpg").read_bytes()[:3000])
    (tmp_path / "p" / "b.jpg").write_bytes((REAL / "000000000790.jpg").read_bytes())
    summary = write(tmp_path / "p", tmp_path / "f")
    assert (summary["files"], summary["summary"]) == (1, "skipped 1 file: 1 truncated")
    assert entries(tmp_path / "f", "errors.jsonl") == [
        {"number": 0, "path": f"{tmp_path}/p/a.jpg", "reason": "is truncated"}
    ]
    with pytest.raises(UserError, match=r"a\.jpg is truncated"):
        write(tmp_path / "p" / "a.jpg", tmp_path / "g")
    assert not (tmp_path / "g").exists()


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_stopped_halfway_and_continued(stop: signal.Signals, tmp_path: Path) -> None:
    write(REAL, tmp_path / "whole")
    out, begun = tmp_path / "f", tmp_path / "begun"
    arguments = [sys.executable, "-c", SLOW, str(REAL), str(out), str(begun), MODEL]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not begun.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        process.send_signal(stop)
        stderr = process.communicate(timeout=60)[1]
    assert process.returncode == (130 if stop == signal.SIGINT else -signal.SIGKILL), stderr
    assert "Traceback" not in stderr
    (out / ".0123456789abcdef.1.tmp").write_bytes(b"left by a killed run")
    with open(out / "features.jsonl", "ab") as file:
        file.write(b'{"number": 7, "pa')  # and half a line
    said: list[str] = []
    summary = write(REAL, out, say=said.append)
    assert 0 < summary["continued"] < 8
    assert said == [f"going on after {summary['continued']} pictures"]
    assert entries(out) == entries(tmp_path / "whole")
    assert set(os.listdir(out)) == set(os.listdir(tmp_path / "whole"))
    for line in entries(out):
        found, right = (load_file(folder / line["file"])["patches"] for folder in (out, tmp_path / "whole"))
        np.testing.assert_allclose(found.astype(float), right.astype(float), atol=0.05)


def test_killed_at_any_of_twenty_moments_and_continued(tmp_path: Path) -> None:
    with killed_at(10**9) as left:
        write(REAL, tmp_path / "whole")
    whole = entries(tmp_path / "whole")
    for moment in moments(10**9 - left[0]):
        out = tmp_path / f"killed-{moment}"
        with pytest.raises(Killed), killed_at(moment):
            write(REAL, out)
        assert write(REAL, out)["files"] == 8
        assert entries(out) == whole
        assert set(os.listdir(out)) == set(os.listdir(tmp_path / "whole"))
        assert all(load_file(out / line["file"])["patches"].shape[0] == line["rows"] for line in whole)


def test_a_lost_line_is_made_again(tmp_path: Path) -> None:
    out = tmp_path / "f"
    write(REAL, out)
    before, lines = contents(out), (out / "features.jsonl").read_text().splitlines(keepends=True)
    (out / "features.jsonl").write_text("".join(lines[:3] + lines[4:]))
    assert write(REAL, out)["continued"] == 3
    assert contents(out).keys() == before.keys()
    assert entries(out) == [json.loads(line) for line in lines]


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    photo = REAL / "000000000790.jpg"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    with pytest.raises(UserError, match=r"--out .*mine holds other files: name a new folder"):
        write(photo, tmp_path / "mine")
    assert os.listdir(tmp_path / "mine") == ["letter.txt"]
    write(photo, tmp_path / "f")
    before = contents(tmp_path / "f")
    for other in ({"size": 32}, {"format": "npy"}):
        with pytest.raises(UserError, match=f"f holds the work of another job .other {next(iter(other))}."):
            write(photo, tmp_path / "f", **other)
    with pytest.raises(UserError, match="other pictures, list_sha256"):
        write(REAL, tmp_path / "f")
    with hold(tmp_path / "f", "at work"), pytest.raises(UserError, match="another process is at work in"):
        write(photo, tmp_path / "f")
    assert contents(tmp_path / "f") == before
