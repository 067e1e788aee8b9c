"""The compiled network gives the features of the readable one, and says when there is nothing to compile with."""

import shutil

import pytest
import torch
from helpers_golden import golden_convnext

from dinokit.backbones.vit import VisionTransformer, ViTSpec
from dinokit.errors import UserError
from dinokit.inference.compiled import Compiled

CPU = torch.device("cpu")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")


def small_network() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(ViTSpec(64, 2, 2, 96, patch_size=8, layer_scale=1.0)).eval()


@needs_compiler
@torch.no_grad()
def test_a_compiled_vit_gives_the_same() -> None:
    network = small_network()
    compiled = Compiled(network, CPU, torch.float32)
    pictures = torch.randn(2, 3, 40, 24)
    found, expected = compiled(pictures), network(pictures)
    for what in ("cls", "registers", "patches"):
        torch.testing.assert_close(getattr(found, what), getattr(expected, what), atol=1e-5, rtol=1e-5)
    assert found.grid is not None
    assert (found.grid.rows, found.grid.cols, found.grid.sizes) == (5, 3, ((40, 24), (40, 24)))
    for ours, theirs in zip(
        compiled.intermediate(pictures, [1, 0], False), network.intermediate(pictures, [1, 0], False), strict=True
    ):
        torch.testing.assert_close(ours.patches, theirs.patches, atol=1e-5, rtol=1e-5)


@needs_compiler
@torch.no_grad()
def test_a_compiled_convnext_gives_the_published_numbers_in_bf16() -> None:
    network, tensors = golden_convnext()
    found = Compiled(network, CPU, torch.bfloat16)(tensors["in.img0"])
    assert found.cls.dtype == torch.float32
    cosine = torch.cosine_similarity(found.tokens, tensors["out.img0.x_norm_patchtokens"], dim=-1)
    assert cosine.min() > 0.995


def test_a_machine_that_cannot_compile_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = Compiled(small_network(), CPU, torch.float32)

    def fail(*_: object) -> None:
        raise RuntimeError("No working C++ compiler found\nlong trace")

    monkeypatch.setattr(compiled, "_intermediate", fail)
    with pytest.raises(
        UserError, match=r"cannot be compiled or run here \(No working C\+\+ compiler found\): use the runtime torch"
    ):
        compiled(torch.randn(1, 3, 16, 16))
