"""Every parameter gets the published learning rate and decay; each part of the network is clipped alone."""

import math
from typing import Any

import pytest
import torch
from helpers_golden import load_golden
from torch import nn

from dinokit.pretrain.optimizer import apply_schedule, build_optimizer, clip_gradients, parameter_groups

TABLES = {k: v for k, v in load_golden("schedules")[1]["param_groups"].items() if isinstance(v, dict)}
DEPTH = {"vit_depth4": 4, "vit_depth1_swiglu_noqkvbias": 1}


def by_name(groups: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    keys = ("lr_multiplier", "wd_multiplier", "is_last_layer")
    return {name: {key: group[key] for key in keys} for group in groups for name in group["names"]}


@pytest.mark.parametrize("table", list(TABLES))
def test_multipliers_are_the_published_ones(table: str) -> None:
    expected = TABLES[table]
    named = [(name, nn.Parameter(torch.zeros(2))) for name in expected]
    groups = parameter_groups(
        named, DEPTH.get(table, 0), layer_decay=0.9, patch_embed_multiplier=0.2, published_decay=True
    )
    got = by_name(groups)
    assert got.keys() == expected.keys()
    for name, multipliers in expected.items():
        assert got[name] == pytest.approx(multipliers, rel=1e-12), name
    assert len(groups) == len({tuple(m.values()) for m in got.values()}), "equal multipliers share a group"


def test_by_default_only_matrices_are_pulled_to_zero() -> None:
    shapes = {
        "cls_token": (1, 1, 4),
        "storage_tokens": (1, 4, 4),
        "mask_token": (1, 4),
        "patch_embed.proj.weight": (4, 3, 2, 2),
        "patch_embed.proj.bias": (4,),
        "blocks.0.ls1.gamma": (4,),
        "blocks.0.attn.qkv.weight": (12, 4),
        "downsample_layers.1.0.weight": (4,),  # a norm of ConvNeXt that its name does not give away
        "last_layer.weight": (8, 4),
    }
    groups = parameter_groups([(n, nn.Parameter(torch.zeros(s))) for n, s in shapes.items()], 1)
    decayed = {name for name, multipliers in by_name(groups).items() if multipliers["wd_multiplier"] == 1}
    assert decayed == {"patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "last_layer.weight"}


def test_frozen_parameters_and_prefixes() -> None:
    frozen = nn.Parameter(torch.zeros(2, 2), requires_grad=False)
    learnt = nn.Parameter(torch.zeros(2, 2))
    groups = parameter_groups([("backbone.blocks.0.a", learnt), ("backbone.blocks.1.a", frozen)], 2, layer_decay=0.5)
    assert by_name(groups) == {
        "backbone.blocks.0.a": {"lr_multiplier": 0.25, "wd_multiplier": 1.0, "is_last_layer": False}
    }


def test_a_step_uses_the_rates_of_the_schedule() -> None:
    parameters = {
        "last_layer.weight": nn.Parameter(torch.ones(2, 2)),
        "blocks.0.w": nn.Parameter(torch.ones(2, 2)),
    }
    optimizer = build_optimizer(parameter_groups(parameters.items(), 1, layer_decay=0.5))
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    apply_schedule(optimizer, lr=0.1, weight_decay=0.4, last_layer_lr=0.0)
    optimizer.step()
    # no gradient: only the decay acts, 1 - lr * multiplier * decay
    assert torch.allclose(parameters["blocks.0.w"], torch.tensor(1 - 0.05 * 0.4))
    assert torch.equal(parameters["last_layer.weight"], torch.ones(2, 2)), "frozen prototypes must not move"


def test_fused_steps_equal_plain_steps() -> None:
    def run(fused: bool) -> torch.Tensor:
        weight = nn.Parameter(torch.linspace(-1, 1, 12).reshape(3, 4))
        groups = parameter_groups([("w", weight)], 0)
        optimizer: torch.optim.Optimizer = build_optimizer(groups)
        if not fused:
            optimizer = torch.optim.AdamW(parameter_groups([("w", weight)], 0), fused=False, foreach=False)
        for step in range(5):
            apply_schedule(optimizer, 0.01 * (step + 1), 0.1, 0.0)
            weight.grad = (weight * weight).detach().sin()
            optimizer.step()
        return weight.detach()

    assert torch.allclose(run(True), run(False), atol=1e-6)


def test_each_part_is_clipped_on_its_own() -> None:
    parts = {
        "backbone": nn.Linear(2, 1, bias=False),
        "dino_head": nn.Linear(2, 1, bias=False),
        "idle": nn.Linear(1, 1),
    }
    parts["backbone"].weight.grad = torch.tensor([[30.0, 40.0]])
    parts["dino_head"].weight.grad = torch.tensor([[0.3, 0.4]])
    norms = clip_gradients(parts, 3.0)
    assert norms == pytest.approx({"backbone": 50.0, "dino_head": 0.5, "idle": 0.0})
    assert parts["backbone"].weight.grad.norm().item() == pytest.approx(3.0, rel=1e-5)
    assert parts["dino_head"].weight.grad.norm().item() == pytest.approx(0.5), "small gradients stay as they are"
    parts["dino_head"].weight.grad = torch.tensor([[math.nan, 1.0]])
    assert math.isnan(clip_gradients(parts, 3.0)["dino_head"])
