"""What all verbs share about models: where they compute, and what is said that a bare file cannot tell."""

import json
from pathlib import Path

import pytest
import torch

from dinokit.backbones.catalog import spec_of
from dinokit.backbones.vit import VisionTransformer
from dinokit.cli.app import main


@pytest.fixture
def weights(tmp_path: Path) -> str:
    torch.save(VisionTransformer(spec_of("dinokit_vitt16")).state_dict(), tmp_path / "w.pth")
    return str(tmp_path / "w.pth")


def test_the_remedy_for_an_assumption_is_the_option(weights: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", weights, "--assume", "mean=[0.5,0.5,0.5]", "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("warning: ")
    assert captured.err.endswith("(--assume KEY=VALUE takes others)\n")
    assert "std of ImageNet" in json.loads(captured.out)["assumed"]
    assert "mean of ImageNet" not in captured.err


def test_info_moves_nothing_to_the_device(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.nn.Module, "to", lambda *_: pytest.fail("the network was moved"))
    assert main(["info", "random:dinokit_vitt16", "--device", "cpu", "--precision", "bf16", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["computes"] == "bfloat16 on cpu"
