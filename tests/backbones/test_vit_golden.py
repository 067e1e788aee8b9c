"""Our networks give the numbers of the published code: outputs, intermediates, masks, gradients, RoPE, drop path."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_golden import load_golden

from dinokit.backbones import vit
from dinokit.backbones.catalog import NETWORKS, spec_of
from dinokit.backbones.rope import Rope, RopeSpec, rotate
from dinokit.backbones.vit import VisionTransformer, ViTSpec
from dinokit.errors import UserError

NETWORK_FILES = ["vit_mlp", "vit_swiglu", "vit_splus", "vit_untied", "vit_plain"]
KEYS = json.loads((Path(__file__).parents[1] / "golden" / "keys.json").read_text())["meta"]


def spec_from_options(options: dict[str, Any], state: dict[str, torch.Tensor]) -> ViTSpec:
    gated = "blocks.0.mlp.w1.weight" in state
    rope = RopeSpec(
        base=options.get("pos_embed_rope_base", 100.0),
        min_period=options.get("pos_embed_rope_min_period"),
        max_period=options.get("pos_embed_rope_max_period"),
        normalize=options.get("pos_embed_rope_normalize_coords", "separate"),
    )
    return ViTSpec(
        width=options["embed_dim"],
        depth=options["depth"],
        heads=options["num_heads"],
        ffn_hidden=state[f"blocks.0.mlp.{'w1' if gated else 'fc1'}.weight"].shape[0],
        ffn="swiglu" if gated else "mlp",
        patch_size=options["patch_size"],
        registers=options["n_storage_tokens"],
        qkv_bias=options.get("qkv_bias", True),
        mask_k_bias=options.get("mask_k_bias", False),
        norm_eps=1e-5 if options["norm_layer"] == "layernormbf16" else 1e-6,
        layer_scale=options["layerscale_init"],
        untied_cls_norm=options.get("untie_cls_and_patch_norms", False),
        local_cls_norm=options.get("untie_global_and_local_cls_norm", False),
        drop_path=options.get("drop_path_rate", 0.0),
        rope=rope,
    )


def golden_network(name: str) -> tuple[VisionTransformer, dict[str, torch.Tensor], dict[str, Any]]:
    tensors, facts = load_golden(name)
    state = {key.removeprefix("state."): value for key, value in tensors.items() if key.startswith("state.")}
    network = VisionTransformer(spec_from_options(facts["class_options"], state))
    network.load_state_dict(state)
    return network, tensors, facts


def assert_close(actual: torch.Tensor, expected: torch.Tensor, what: str) -> None:
    assert actual.shape == expected.shape, what
    if expected.numel():
        worst = (actual - expected).abs().max().item()
        assert worst <= 1e-5, f"{what}: off by {worst:.2e}"


@pytest.mark.parametrize("name", NETWORK_FILES)
def test_outputs_equal_the_published_code(name: str) -> None:
    network, tensors, _ = golden_network(name)
    network.eval()
    inputs = [key.removeprefix("in.") for key in tensors if key.startswith("in.") and "masks" not in key]
    for key in inputs:
        with torch.no_grad():
            features = network(tensors[f"in.{key}"])
        assert_close(features.cls, tensors[f"out.{key}.x_norm_clstoken"], key)
        assert_close(features.registers, tensors[f"out.{key}.x_storage_tokens"], key)
        assert_close(features.tokens, tensors[f"out.{key}.x_norm_patchtokens"], key)
    with torch.no_grad():
        masked = network(tensors["in.img0"], tensors["in.img0.masks"].bool().flatten(1))
    assert_close(masked.tokens, tensors["out.img0.masked.x_norm_patchtokens"], "masked patches")
    assert_close(masked.cls, tensors["out.img0.masked.x_norm_clstoken"], "masked class token")


@pytest.mark.parametrize("name", NETWORK_FILES)
def test_intermediate_layers_equal_the_published_code(name: str) -> None:
    network, tensors, _ = golden_network(name)
    network.eval()
    depth = network.spec.depth
    with torch.no_grad():
        raw = network.intermediate(tensors["in.img0"], range(depth), norm=False)
        last = network.intermediate(tensors["in.img0"], [-1, -2], norm=True)
    for layer, features in enumerate(raw):
        tokens = torch.cat([features.cls[:, None], features.registers, features.tokens], dim=1)
        assert_close(tokens, tensors[f"out.img0.inter_raw.{layer}.all"], f"block {layer}")
    for layer, features in zip([depth - 1, depth - 2], last, strict=True):
        name = f"out.img0.inter_norm_reshape.{layer}"
        assert_close(features.patches.permute(0, 3, 1, 2), tensors[f"{name}.patch"], name)
        assert_close(features.cls, tensors[f"{name}.cls"], name)


@pytest.mark.parametrize("name", NETWORK_FILES)
def test_gradients_equal_the_published_code(name: str) -> None:
    network, tensors, facts = golden_network(name)
    network.train()
    calls = [
        network(tensors["in.img0"], tensors["in.img0.masks"].bool().flatten(1)),
        network(tensors["in.img1"], local=True),
    ]
    loss = torch.zeros(())
    for index, features in enumerate(calls):
        assert_close(features.cls, tensors[f"train_list.{index}.x_norm_clstoken"], "training class token")
        weights = f"train_list.{index}.loss_weight"
        loss = loss + (tensors[f"{weights}.x_norm_clstoken"] * features.cls).sum()
        loss = loss + (tensors[f"{weights}.x_norm_patchtokens"] * features.tokens).sum()
    assert loss.item() == pytest.approx(facts["train_list_loss"]["value"], rel=1e-5)
    loss.backward()
    norms = {key: p.grad.norm().item() for key, p in network.named_parameters() if p.grad is not None}
    for key, expected in facts["train_list_grad_l2_norm"].items():
        assert norms.get(key, 0.0) == pytest.approx(expected, rel=1e-3, abs=1e-4), key


def test_drop_path_equals_the_published_code(monkeypatch: pytest.MonkeyPatch) -> None:
    network, tensors, _ = golden_network("droppath_vit")
    network.train()
    for number in (0, 1):
        recorded = iter(
            tensors[f"kept.block{block}.{branch}.list{number}"] for block in (0, 1) for branch in ("attn", "ffn")
        )
        monkeypatch.setattr(vit, "kept_samples", lambda *_, recorded=recorded: next(recorded))
        [features] = network.intermediate(tensors[f"in.{number}"], [-1], norm=False)
        tokens = torch.cat([features.cls[:, None], features.registers, features.tokens], dim=1)
        assert_close(tokens, tensors[f"out.{number}.x_prenorm"], f"crops of size {number}")


def test_drop_path_keeps_the_stated_share() -> None:
    kept = vit.kept_samples(10, 0.4, torch.device("cpu"))
    assert len(kept) == 6
    assert len(set(kept.tolist())) == 6
    assert len(vit.kept_samples(2, 0.9, torch.device("cpu"))) == 1


@pytest.mark.parametrize("attention", [vit.explicit_attention, vit.fused_attention])
def test_both_forms_of_attention_agree(attention: vit.Attention) -> None:
    network, tensors, _ = golden_network("vit_mlp")
    network.eval().use_attention(attention)
    with torch.no_grad():
        assert_close(network(tensors["in.img0"]).tokens, tensors["out.img0.x_norm_patchtokens"], "patches")


def test_rope_tables_equal_the_published_code() -> None:
    tensors, facts = load_golden("rope")
    for name, case in facts["cases"].items():
        if case["dtype"] != "float32":
            continue
        spec = RopeSpec(case["base"], case.get("min_period"), case.get("max_period"), case["normalize_coords"])
        rope = Rope(case["embed_dim"] // case["num_heads"], spec).eval()
        assert_close(rope.periods, tensors[f"{name}.periods"], name)
        for rows, cols in case["grids"]:
            cosine, sine = rope(rows, cols)
            assert_close(cosine, tensors[f"{name}.{rows}x{cols}.cos"], name)
            assert_close(sine, tensors[f"{name}.{rows}x{cols}.sin"], name)


def test_rotation_leaves_prefix_tokens_alone_and_equals_the_published_code() -> None:
    tensors, _ = load_golden("rope")
    table = Rope(32, RopeSpec()).eval()(2, 3, prefix=5)
    for which in "qk":
        turned = rotate(tensors[f"apply.{which}"], table)
        assert_close(turned, tensors[f"apply.{which}_out"], which)
        assert torch.equal(turned[:, :, :5], tensors[f"apply.{which}"][:, :, :5])


def test_training_perturbation_of_rope_equals_the_published_code(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, _ = load_golden("rope")
    rope = Rope(32, RopeSpec(shift=0.3, jitter=1.5, rescale=2.0)).train()
    draws = iter(
        [tensors["train_aug.shift_hw"], tensors["train_aug.jitter_hw"].log(), tensors["train_aug.rescale"].log()]
    )
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, *_: self.copy_(next(draws)))
    cosine, sine = rope(3, 2)
    assert_close(cosine, tensors["train_aug.cos"], "cosine")
    assert_close(sine, tensors["train_aug.sin"], "sine")


def test_training_draws_a_new_rescaling_for_every_block_within_its_bounds() -> None:
    network = VisionTransformer(ViTSpec(64, 4, 1, 64, rope=RopeSpec(rescale=2.0))).train()
    largest = [math.acos(table[0][5 : 5 + 1, 15].item()) for table in network._tables(4, 4)]
    assert len(set(largest)) == 4
    assert len({id(table) for table in network.eval()._tables(4, 4)}) == 1


PUBLISHED = {name: name.replace(" (SAT493M)", "_sat493m") for name in KEYS if "convnext" not in name}


@pytest.mark.parametrize("published", PUBLISHED)
def test_every_published_key_shape_and_parameter_count(published: str) -> None:
    with torch.device("meta"):
        network = VisionTransformer(NETWORKS[PUBLISHED[published]])
    assert {key: list(value.shape) for key, value in network.state_dict().items()} == KEYS[published]["keys"]
    assert sum(p.numel() for p in network.parameters()) == KEYS[published]["parameters"]


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean dinov3_vitb16"):
        spec_of("dinov3_vitb61")
