"""What all verbs share about models: where they compute, and what is said that a bare file cannot tell."""

import json
from pathlib import Path

import pytest
import torch

from dinokit.backbones.catalog import spec_of
from dinokit.backbones.vit import VisionTransformer
from dinokit.cli.app import main
from dinokit.cli.models import Opening


@pytest.fixture
def weights(tmp_path: Path) -> str:
    torch.save(VisionTransformer(spec_of("dinokit_vitt16")).state_dict(), tmp_path / "w.pth")
    return str(tmp_path / "w.pth")


def test_the_remedy_for_an_assumption_is_the_option(weights: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert Opening(assume=["mean=[0.5,0.5,0.5]"]).model(weights).info.statistics.mean == (0.5, 0.5, 0.5)
    said = capsys.readouterr().err
    assert said.startswith("warning: ")
    assert said.endswith("(--assume KEY=VALUE takes others)\n")
    assert "std of ImageNet" in said
    assert "mean of ImageNet" not in said


def test_info_says_once_what_was_assumed_and_what_the_model_runs_with(
    weights: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", weights]) == 0
    captured = capsys.readouterr()
    assert (captured.out + captured.err).count("std of ImageNet") == 1
    assert "--assume KEY=VALUE" in captured.err
    assert main(["info", weights, "--assume", "norm_eps=0.5", "rope_normalize=max", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["norm_eps"] == 0.5
    assert facts["rope"] == "base 100, coordinates normalized max"
    assert facts["given"] == "norm_eps=0.5, rope_normalize=max"
    assert "norm_eps" not in facts["assumed"]


def test_info_moves_nothing_to_the_device(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.nn.Module, "to", lambda *_: pytest.fail("the network was moved"))
    assert main(["info", "random:dinokit_vitt16", "--device", "cpu", "--precision", "bf16", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["computes"] == "bfloat16 on cpu"
