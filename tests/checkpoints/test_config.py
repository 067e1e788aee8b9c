"""Damaged and hostile `config.json`: every field is bounded before anything is built from it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dinokit.checkpoints.load import load_model
from dinokit.checkpoints.model import AssumptionWarning
from dinokit.checkpoints.save import save_model
from dinokit.errors import UserError

Edit = Callable[[dict[str, Any]], Any]


def network(name: str, value: Any) -> Edit:
    return lambda config: config["network"].__setitem__(name, value)


def rope(name: str, value: Any) -> Edit:
    return lambda config: config["network"]["rope"].__setitem__(name, value)


def top(name: str, value: Any) -> Edit:
    return lambda config: config.__setitem__(name, value)


VALUES: dict[str, list[Any]] = {
    "depth": [10**9, 0, -1, 12.0, "12", None, True, float("nan"), 10**400, [1]],
    "width": [10**6, -192, 190, float("inf"), {}],
    "std": [[0, 1, 1], [1, 1], "abc", [1, 1, float("nan")], [1, 1, "1"]],
    "mean": [[10**400, 0, 0]],
    "network": [None, [], 5, {}],
    "base": [0, -1, float("nan"), float("inf"), "100", None],
}
EDITS: dict[str, list[Edit]] = {
    "depth": [network("depth", value) for value in VALUES["depth"]],
    "width": [network("width", value) for value in VALUES["width"]],
    "heads": [network("heads", value) for value in (0, 5, 192, -3)],
    "registers": [network("registers", value) for value in (-1, 10**9)],
    "patch_size": [network("patch_size", 0)],
    "ffn": [network("ffn", value) for value in ("moe", 3)],
    "norm_eps": [network("norm_eps", value) for value in (float("nan"), 0, -1, "1e-5", None)],
    "drop_path": [network("drop_path", 1.0)],
    "qkv_bias": [network("qkv_bias", "yes")],
    "base": [rope("base", value) for value in VALUES["base"]],
    "normalize": [rope("normalize", value) for value in ("none", ["max"])],
    "image_size": [top("image_size", value) for value in (0, -5, 10**9, "224", 2.5)],
    "map_layer": [top("map_layer", value) for value in (12, -13, "8", 2.5)],
    "std": [top("std", value) for value in VALUES["std"]],
    "damaged": [top("mean", value) for value in VALUES["mean"]],
    "network": [top("network", value) for value in VALUES["network"]] + [lambda config: config.pop("network")],
    "rope": [network("rope", value) for value in (None, 3, {"bose": 1})],
    "colour": [network("colour", 3)],
    "format": [top("format", "other"), lambda config: config.pop("format")],
    "weights_sha256": [top("weights_sha256", 5), lambda config: config.pop("weights_sha256")],
}


@pytest.mark.parametrize(("named", "edit"), [(named, edit) for named, edits in EDITS.items() for edit in edits])
def test_hostile_config(named: str, edit: Edit, folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    edit(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(UserError) as caught:
        load_model(tmp_path)
    assert "config.json" in str(caught.value)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"a": ' * 9000, b" " * (2 << 20)]
)
def test_a_config_that_is_none(content: bytes, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(UserError, match=r"config\.json"):
        load_model(tmp_path)


def test_a_config_of_another_size_names_the_first_wrong_key(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["network"].update(width=384, heads=6, ffn_hidden=1536)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(UserError, match=r"cls_token of shape \[1, 1, 192\], not \[1, 1, 384\]"):
        load_model(tmp_path)


def test_whole_numbers_and_hostile_names_are_taken_as_they_are_meant(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["network"]["layer_scale"] = 1
    config["name"] = "a\ud800\x1b[2J\nb"
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    model = load_model(tmp_path)
    assert model.info.name == "a?[2Jb"
    assert model.network.blocks[0].ls1.gamma.dtype == torch.float32  # type: ignore[union-attr]
    assert load_model("random:dinokit_vitt16", layer_scale=1).network.blocks[0].ls1.gamma.is_floating_point()  # type: ignore[union-attr, operator]


def test_the_layout_is_read_off_the_keys_whatever_the_config(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "dinov3_vit", "transformers_version": "4.56.0"}))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.warns(AssumptionWarning, match=r"assumed: mean of ImageNet, std of ImageNet, image_size=224"):
        assert load_model(tmp_path).info.spec.width == 192


def test_the_config_of_a_convnext(tmp_path: Path) -> None:
    model = load_model("random:dinov3_convnext_tiny", depths=(1, 1, 1, 1), widths=(8, 8, 8, 16))
    save_model(tmp_path, model.network.state_dict(), model.info)
    assert load_model(tmp_path).info.spec == model.info.spec
    good = json.loads((tmp_path / "config.json").read_text())
    for name, value in (("depths", [1, 1]), ("widths", [8, 8, 8, 10**9]), ("depths", "1111"), ("norm_eps", 0)):
        config = {**good, "network": {**good["network"], name: value}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match=rf"config\.json.*{name}"):
            load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**good, "kind": "resnet"}))
    with pytest.raises(UserError, match="kind is 'resnet', not vit or convnext"):
        load_model(tmp_path)
