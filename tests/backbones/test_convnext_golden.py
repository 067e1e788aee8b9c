"""Our ConvNeXt gives the numbers of the published code: outputs, every stage, maps resized to a 16-pixel grid."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers_golden import golden_convnext
from torch import Tensor

from dinokit.backbones.catalog import NETWORKS
from dinokit.backbones.convnext import ConvNeXtSpec
from dinokit.backbones.features import Features
from dinokit.backbones.network import build

KEYS = json.loads((Path(__file__).parents[1] / "golden" / "keys.json").read_text())["meta"]
CASES = {"all4": [0, 1, 2, 3], "last1": [3], "list13": [1, 3]}


def assert_equal(features: Features, tensors: dict[str, Tensor], name: str) -> None:
    for ours, theirs in ((features.cls, "cls"), (features.patches.permute(0, 3, 1, 2), "patch")):
        expected = tensors[f"{name}.{theirs}"]
        assert ours.shape == expected.shape
        assert (ours - expected).abs().max().item() <= 1e-5, name


@torch.no_grad()
@pytest.mark.parametrize("picture", ["img0", "img1"])
def test_outputs_equal_the_published_code(picture: str) -> None:
    network, tensors = golden_convnext(32)
    features = network(tensors[f"in.{picture}"])
    assert (features.cls - tensors[f"out.{picture}.x_norm_clstoken"]).abs().max() <= 1e-5
    assert (features.tokens - tensors[f"out.{picture}.x_norm_patchtokens"]).abs().max() <= 1e-5
    assert features.registers.shape == (len(features), 0, network.spec.width)


@torch.no_grad()
@pytest.mark.parametrize("picture", ["img0", "img1"])
@pytest.mark.parametrize("patch_size", [32, 16])
def test_every_stage_equals_the_published_code(picture: str, patch_size: int) -> None:
    network, tensors = golden_convnext(patch_size)
    start = f"out.{picture}.inter.p{patch_size if patch_size != 32 else 'none'}"
    checked = 0
    for kind in ("raw", "norm"):
        for case, layers in CASES.items():
            found = network.intermediate(tensors[f"in.{picture}"], layers, norm=kind == "norm")
            for place, features in enumerate(found):
                name = f"{start}.{kind}.{case}.{place}"
                if f"{name}.cls" in tensors:
                    assert_equal(features, tensors, name)
                    checked += 1
    assert checked >= 8


@torch.no_grad()
def test_a_finer_grid_resizes_the_last_map_before_the_norm() -> None:
    network, tensors = golden_convnext(16)
    features = network(tensors["in.img0"])
    assert_equal(features, tensors, "out.img0.inter.p16.norm.last1.0")


def test_stages_come_in_the_order_asked_for_and_others_are_refused() -> None:
    network, tensors = golden_convnext(32)
    first, last = network.intermediate(tensors["in.img0"], [0, -1])
    assert (first.cls.shape[1], last.cls.shape[1]) == (16, 48)
    with pytest.raises(IndexError, match="stages 0 to 3"):
        network.intermediate(tensors["in.img0"], [4])


@pytest.mark.parametrize("name", [name for name in NETWORKS if "convnext" in name])
def test_keys_and_shapes_are_the_published_ones(name: str) -> None:
    with torch.device("meta"):
        network = build(NETWORKS[name])
    ours = {key: list(value.shape) for key, value in network.state_dict().items()}
    published = KEYS[name]
    theirs = {key: shape for key, shape in published["keys"].items() if not key.startswith("norms.")}
    assert ours == theirs
    assert sum(parameter.numel() for parameter in network.parameters()) == published["parameters"]


def test_the_spec_survives_a_change_of_its_grid() -> None:
    spec = NETWORKS["dinov3_convnext_tiny"]
    assert isinstance(spec, ConvNeXtSpec)
    assert replace(spec, patch_size=16).width == spec.width == 768
