"""The prepared copy of a ConvNeXt gives the features of the readable network and of the published code."""

import pytest
import torch
from helpers_golden import assert_same, golden_convnext

from dinokit.backbones.features import Features
from dinokit.inference import linear, prepared_convnext
from dinokit.inference.prepared import prepare

CPU = torch.device("cpu")
FORMATS = [torch.float32, torch.bfloat16]


@pytest.fixture(params=[False, True], ids=["public", "packed"])
def packing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Run once with public and once with packed products."""
    monkeypatch.setattr(prepared_convnext, "packing_pays", lambda *_: request.param)
    return bool(request.param)


@torch.no_grad()
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("picture", ["img0", "img1"])
def test_equals_the_published_code(picture: str, dtype: torch.dtype, packing: bool) -> None:
    network, tensors = golden_convnext()
    fast = prepare(network, CPU, dtype)
    assert fast.packed == packing
    pictures = tensors[f"in.{picture}"]
    features = fast(pictures)
    cls = tensors[f"out.{picture}.x_norm_clstoken"]
    patches = tensors[f"out.{picture}.x_norm_patchtokens"].reshape(features.patches.shape)
    assert_same(features, Features(cls, cls.new_empty(len(cls), 0, cls.shape[1]), patches), dtype)
    assert features.grid is not None
    assert features.grid.sizes == (tuple(pictures.shape[2:]),) * len(pictures)


@torch.no_grad()
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("patch_size", [32, 16])
def test_every_stage_equals_the_readable_network(patch_size: int, norm: bool, dtype: torch.dtype) -> None:
    network, _ = golden_convnext(patch_size)
    fast = prepare(network, CPU, dtype)
    for batch, height, width in ((1, 32, 32), (2, 96, 64), (3, 47, 75)):
        pictures = torch.randn(batch, 3, height, width)
        expected = network.intermediate(pictures, [3, 0, -3, 2], norm=norm)
        for ours, theirs in zip(fast.intermediate(pictures, [3, 0, -3, 2], norm=norm), expected, strict=True):
            assert_same(ours, theirs, dtype)


@torch.no_grad()
def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch, packing: bool) -> None:
    network, _ = golden_convnext()
    pictures = torch.randn(2, 3, 96, 64)
    monkeypatch.setattr(linear, "ROWS", 48)
    assert_same(prepare(network, CPU, torch.float32)(pictures), network(pictures), torch.float32)


@torch.no_grad()
def test_pictures_are_not_overwritten() -> None:
    network, tensors = golden_convnext()
    pictures = tensors["in.img0"].clone()
    prepare(network, CPU, torch.float32)(pictures)
    assert torch.equal(pictures, tensors["in.img0"])
