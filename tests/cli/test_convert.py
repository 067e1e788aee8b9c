"""`dinokit convert`: a model goes to another program's layout and back, and what goes wrong is one line."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dinokit.checkpoints.load import load_model
from dinokit.checkpoints.save import save_model
from dinokit.cli.app import main


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = load_model("random:dinokit_vitt16", depth=1)
    save_model(tmp_path / "model", model.network.state_dict(), model.info)
    return tmp_path / "model"


@pytest.mark.parametrize("layout", ["transformers", "timm", "meta"])
def test_there_and_back(layout: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(folder), str(tmp_path / "out"), "--layout", layout]) == 0
    weights = capsys.readouterr().out.strip()
    assert Path(weights).parent == tmp_path / "out"
    source = weights if layout == "meta" else str(tmp_path / "out")
    assert main(["convert", source, str(tmp_path / "back"), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["layout"] == "dinokit"
    assert ("assumed" in captured.err) == (layout == "meta")
    state, back = (load_model(place).network.state_dict() for place in (folder, tmp_path / "back"))
    assert state.keys() == back.keys()
    assert all(torch.equal(value, back[key]) for key, value in state.items())


def test_what_is_lost_is_a_warning_and_what_cannot_be_held_an_error(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load_model(folder)
    state = {**model.network.state_dict(), "mask_token": torch.ones(1, 192)}
    save_model(tmp_path / "masked", state, model.info)
    assert main(["convert", str(tmp_path / "masked"), str(tmp_path / "out"), "--layout", "timm"]) == 0
    assert capsys.readouterr().err == "warning: the layout of timm leaves out the mask token\n"
    rope = replace(model.info.spec.rope, normalize="max")  # type: ignore[union-attr]
    save_model(tmp_path / "other", state, replace(model.info, spec=replace(model.info.spec, rope=rope)))  # type: ignore[call-arg]
    assert main(["convert", str(tmp_path / "other"), str(tmp_path / "no"), "--layout", "timm"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: the layout of timm cannot hold RoPE coordinates normalised by")
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "no").exists()
    assert main(["convert", str(folder), str(tmp_path / "no"), "--layout", "keras"]) == 2
    assert "known are dinokit, transformers, timm, meta" in capsys.readouterr().err
