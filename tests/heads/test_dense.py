"""The linear dense head: equal to the published one, and pixels equal to resized maps."""

import pytest
import torch
import torch.nn.functional as F
from helpers_golden import load_golden
from hypothesis import given, settings
from hypothesis import strategies as st

from dinokit.heads.dense import LinearDenseHead
from dinokit.heads.pixels import sample

CASES = ("last", "four", "pyramid", "cls")


@pytest.mark.parametrize("case", CASES)
def test_it_equals_the_published_head(case: str) -> None:
    tensors, facts = load_golden("heads_linear_segmentation")
    options = facts["cases"][case]
    head = LinearDenseHead(
        options["in_channels"], options["n_output_channels"], dropout=0.0, class_token=options["use_cls_token"]
    )
    prefix = f"state.{case}."
    head.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    maps = []
    for n, width in enumerate(options["in_channels"]):
        patches = tensors[f"in.{case}.feat{n}"]
        maps.append((patches, tensors.get(f"in.{case}.cls{n}", patches.new_zeros(len(patches), width))))
    logits = head.eval()(maps)
    assert (logits - tensors[f"out.{case}.logits"]).abs().max() <= 1e-5
    resized = F.interpolate(logits, size=(40, 56), mode="bilinear", align_corners=False)
    assert (resized - tensors[f"out.{case}.predict_40x56"]).abs().max() <= 1e-5
    trained = head.train()(maps)
    assert (trained - tensors[f"out.{case}.train_logits"]).abs().max() <= 1e-5
    norm = head.batchnorm_layer
    assert (norm.running_mean - tensors[f"out.{case}.train_running_mean"]).abs().max() <= 1e-6  # type: ignore[operator]
    assert (norm.running_var - tensors[f"out.{case}.train_running_var"]).abs().max() <= 1e-5  # type: ignore[operator]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 70), st.integers(1, 70), st.integers(0, 2**31))
def test_a_pixel_is_that_of_the_resized_map(rows: int, cols: int, height: int, width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(3, rows, cols, generator=generator)
    y, x = torch.randint(height, (5,), generator=generator), torch.randint(width, (5,), generator=generator)
    resized = F.interpolate(maps[None], size=(height, width), mode="bilinear", align_corners=False)[0]
    found = sample(maps, torch.stack([x, y], dim=1) + 0.5, (height, width))
    assert torch.allclose(found.T, resized[:, y, x], atol=1e-4)
