"""Weights come in right whatever file they lie in: architectures read off keys, wrappers, round trips, assumptions."""

import hashlib
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_golden import load_golden
from safetensors.torch import save_file
from torch import Tensor

from dinokit.backbones.catalog import NETWORKS, spec_of
from dinokit.backbones.vit import VisionTransformer
from dinokit.checkpoints import load, save
from dinokit.checkpoints.layouts import meta
from dinokit.checkpoints.load import load_model
from dinokit.checkpoints.model import AssumptionWarning
from dinokit.checkpoints.save import save_model
from dinokit.errors import UserError

OVERRIDES: dict[str, dict[str, Any]] = {
    "vit_mlp": {},
    "vit_swiglu": {},
    "vit_splus": {},
    "vit_untied": {"norm_eps": 1e-6},
    "vit_plain": {"rope_normalize": "max"},
}
quiet = pytest.mark.filterwarnings("ignore::dinokit.checkpoints.model.AssumptionWarning")


def golden_state(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    tensors, _ = load_golden(name)
    return {key[6:]: value for key, value in tensors.items() if key.startswith("state.")}, tensors


@quiet
@pytest.mark.parametrize("name", OVERRIDES)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_bare_file_gives_the_published_outputs(name: str, suffix: str, tmp_path: Path) -> None:
    state, tensors = golden_state(name)
    path = tmp_path / f"weights{suffix}"
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    network = load_model(path, **OVERRIDES[name]).network.eval()
    with torch.no_grad():
        features = network(tensors["in.img0"])
    torch.testing.assert_close(features.cls, tensors["out.img0.x_norm_clstoken"], atol=1e-5, rtol=0)
    torch.testing.assert_close(features.tokens, tensors["out.img0.x_norm_patchtokens"], atol=1e-5, rtol=0)


@quiet
@pytest.mark.parametrize("wrap", ["teacher", "model", "module", "nested", "compiled"])
def test_wrappers_and_heads_are_taken_off(wrap: str, tmp_path: Path) -> None:
    state, _ = golden_state("vit_mlp")
    teacher = {f"backbone.{key}": value for key, value in state.items()}
    teacher |= {"dino_head.mlp.0.weight": torch.zeros(2, 2), "ibot_head.last_layer.weight": torch.zeros(2, 2)}
    contents: dict[str, Any] = {
        "teacher": {"teacher": teacher},
        "model": {"model": state, "iteration": 5},
        "module": {f"module.{key}": value for key, value in teacher.items()},
        "nested": {"model": {"teacher": teacher}, "iteration": 5},
        "compiled": {f"_orig_mod.{key}": value for key, value in state.items()},
    }
    torch.save(contents[wrap], tmp_path / "w.pth")
    loaded = load_model(tmp_path / "w.pth").network.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


@quiet
def test_the_shape_of_a_published_network_is_read_off_its_file(tmp_path: Path) -> None:
    torch.save(VisionTransformer(spec_of("dinov3_vits16")).bfloat16().state_dict(), tmp_path / "w.pth")
    spec, expected = load_model(tmp_path / "w.pth").info.spec, NETWORKS["dinov3_vits16"]
    names = (
        "width",
        "depth",
        "heads",
        "ffn",
        "ffn_hidden",
        "patch_size",
        "registers",
        "mask_k_bias",
        "norm_eps",
    )
    assert {name: getattr(spec, name) for name in names} == {name: getattr(expected, name) for name in names}
    assert (spec.rope.base, spec.rope.normalize) == (100.0, "separate")


def test_a_published_file_has_the_spec_of_the_catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(VisionTransformer(spec_of("dinov3_vits16")).state_dict(), tmp_path / "w.pth")
    digest = hashlib.sha256((tmp_path / "w.pth").read_bytes()).hexdigest()
    monkeypatch.setitem(meta.PUBLISHED_FILES, digest[:8], "dinov3_vits16")
    info = load_model(tmp_path / "w.pth").info
    assert (info.name, info.assumptions) == ("dinov3_vits16", ())
    assert info.spec == NETWORKS["dinov3_vits16"]
    assert info.spec.rope.rescale == 2.0


def test_what_a_file_cannot_tell_is_said_and_can_be_given(tmp_path: Path) -> None:
    torch.save(golden_state("vit_mlp")[0], tmp_path / "w.pth")
    with pytest.warns(AssumptionWarning, match="norm_eps=1e-05") as caught:
        model = load_model(tmp_path / "w.pth")
    assert len(caught) == 1
    assert len(model.info.assumptions) == 6
    given = {
        "norm_eps": 1e-6,
        "rope_normalize": "max",
        "rope_rescale": 2.0,
        "mean": (0.5,) * 3,
        "std": [0.5] * 3,
        "image_size": 96,
    }
    with pytest.warns(AssumptionWarning, match="std of ImageNet"):
        load_model(tmp_path / "w.pth", mean=[0.5, 0.5, 0.5])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        info = load_model(tmp_path / "w.pth", **given).info
    assert (info.spec.norm_eps, info.spec.rope.normalize, info.image_size) == (1e-6, "max", 96)
    assert info.statistics.std == (0.5, 0.5, 0.5)
    assert info.assumptions == ()


def test_saved_and_loaded_is_the_same_bit_by_bit(tmp_path: Path) -> None:
    model = load_model("random:dinokit_vitt16")
    state = model.network.state_dict()
    info = save_model(tmp_path / "run" / "model", state, model.info)
    for place in ("run", "run/model", "run/model/model.safetensors"):
        back = load_model(tmp_path / place)
        assert back.info == info
        assert all(torch.equal(value, state[key]) for key, value in back.network.state_dict().items())
    assert all(parameter.requires_grad for parameter in back.network.parameters())


def test_a_model_is_read_while_it_is_saved_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (load_model(f"random:dinokit_vitt16:{seed}", depth=1) for seed in (1, 2))
    save_model(tmp_path, first.network.state_dict(), first.info)
    before, hash_file = (tmp_path / "config.json").read_bytes(), load.file_sha256

    def hash_late(path: Path) -> str:
        save_model(tmp_path, second.network.state_dict(), second.info)
        return hash_file(path)

    monkeypatch.setattr(load, "file_sha256", hash_late)
    assert load_model(tmp_path).info.name == second.info.name
    assert (tmp_path / "config.json").read_bytes() != before


def test_a_save_that_fails_leaves_the_old_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model("random:dinokit_vitt16", depth=1)
    info = save_model(tmp_path, model.network.state_dict(), model.info)

    def fail(descriptor: int) -> None:
        if len(list(tmp_path.glob(".*.tmp"))) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(save.os, "fsync", fail)
    with pytest.raises(UserError, match=r"cannot write .*config\.json .No space"):
        save_model(tmp_path, load_model("random:dinokit_vitt16:9", depth=1).network.state_dict(), model.info)
    assert load_model(tmp_path).info == info
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_half_precision_halves_the_file_and_keeps_the_periods(tmp_path: Path) -> None:
    model = load_model("random:dinokit_vitt16")
    state = model.network.state_dict()
    save_model(tmp_path / "whole", state, model.info)
    save_model(tmp_path / "half", state, model.info, torch.float16)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.51 * sizes[0]
    back = load_model(tmp_path / "half").network.state_dict()
    assert torch.equal(back["rope_embed.periods"], state["rope_embed.periods"])
    assert all(torch.equal(value, state[key].half().float()) for key, value in back.items() if "periods" not in key)


def test_weights_beyond_half_precision_are_not_saved_as_infinity(tmp_path: Path) -> None:
    model = load_model("random:dinokit_vitt16")
    state = {**model.network.state_dict(), "norm.bias": torch.full((192,), 1e6)}
    with pytest.raises(UserError, match=r"norm\.bias .* not finite in float16"):
        save_model(tmp_path, state, model.info, torch.float16)


@quiet
def test_weights_that_share_memory_are_taken_apart(tmp_path: Path) -> None:
    state = golden_state("vit_mlp")[0]
    state["blocks.0.norm2.bias"] = state["blocks.0.norm1.bias"]
    torch.save(state, tmp_path / "w.pth")
    network = load_model(tmp_path / "w.pth").network
    with torch.no_grad():
        network.blocks[0].norm1.bias += 1  # type: ignore[union-attr, operator]
    assert torch.equal(network.state_dict()["blocks.0.norm2.bias"], state["blocks.0.norm2.bias"])
