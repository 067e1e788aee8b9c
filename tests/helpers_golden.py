"""Reference outputs of the published code, stored in tests/golden."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from dinokit.backbones.convnext import ConvNeXt, ConvNeXtSpec
from dinokit.backbones.features import Features

GOLDEN = Path(__file__).parent / "golden"


def golden_convnext(patch_size: int = 32) -> tuple[ConvNeXt, dict[str, Tensor]]:
    """The ConvNeXt of the golden file, with cells of `patch_size` pixels, and the file's tensors."""
    tensors, facts = load_golden("convnext_small_cfg")
    options = facts["class_options"]
    network = ConvNeXt(ConvNeXtSpec(tuple(options["depths"]), tuple(options["dims"]), patch_size=patch_size)).eval()
    state = {key.removeprefix("state."): value for key, value in tensors.items() if key.startswith("state.")}
    network.load_state_dict({key: value for key, value in state.items() if not key.startswith("norms.")})
    return network, tensors


def assert_same(actual: Features, expected: Features, dtype: torch.dtype) -> None:
    """Features of a prepared network that computes in `dtype` are those of the readable one in float32."""
    for what in ("cls", "registers", "patches"):
        ours, theirs = getattr(actual, what), getattr(expected, what)
        assert ours.shape == theirs.shape
        assert ours.dtype == torch.float32
        if not theirs.numel():
            continue
        if dtype == torch.float32:
            assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max(), what
        else:
            bar = 0.995 if what == "patches" else 0.999
            assert torch.cosine_similarity(ours, theirs, dim=-1).min() >= bar, what


def load_golden(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of the golden file `name`."""
    return load_file(GOLDEN / f"{name}.safetensors"), json.loads((GOLDEN / f"{name}.json").read_text())
