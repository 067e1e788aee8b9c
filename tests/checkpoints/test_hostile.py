"""Damaged and hostile files: one clear error each, nothing executed, no memory without bound."""

import hashlib
import json
import os
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_golden import GOLDEN
from safetensors.torch import load, save_file
from torch import Tensor

from dinokit.checkpoints.load import load_model
from dinokit.checkpoints.save import save_model
from dinokit.errors import UserError

KEYS = json.loads((GOLDEN / "keys.json").read_text())
Edit = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = load_model("random:dinokit_vitt16", depth=1)
    path = tmp_path_factory.mktemp("model")
    save_model(path, model.network.state_dict(), model.info)
    return path


@pytest.fixture
def state(folder: Path) -> dict[str, Tensor]:
    return load((folder / "model.safetensors").read_bytes())


def network(name: str, value: Any) -> Edit:
    return lambda config: config["network"].__setitem__(name, value)


def rope(name: str, value: Any) -> Edit:
    return lambda config: config["network"]["rope"].__setitem__(name, value)


def top(name: str, value: Any) -> Edit:
    return lambda config: config.__setitem__(name, value)


EDITS = {
    "depth": [network("depth", value) for value in (10**9, 0, -1, 12.0, "12", None, True, float("nan"), 10**400, [1])],
    "width": [network("width", value) for value in (10**6, -192, 190, float("inf"), {})],
    "heads": [network("heads", value) for value in (0, 5, 192, -3)],
    "registers": [network("registers", value) for value in (-1, 10**9)],
    "patch_size": [network("patch_size", 0)],
    "ffn": [network("ffn", value) for value in ("moe", 3)],
    "norm_eps": [network("norm_eps", value) for value in (float("nan"), 0, -1, "1e-5", None)],
    "drop_path": [network("drop_path", 1.0)],
    "qkv_bias": [network("qkv_bias", "yes")],
    "base": [rope("base", value) for value in (0, -1, float("nan"), float("inf"), "100", None)],
    "normalize": [rope("normalize", value) for value in ("none", ["max"])],
    "image_size": [top("image_size", value) for value in (0, -5, 10**9, "224", 2.5)],
    "std": [top("std", value) for value in ([0, 1, 1], [1, 1], "abc", [1, 1, float("nan")], [1, 1, "1"])],
    "network": [top("network", value) for value in (None, [], 5, {})] + [lambda config: config.pop("network")],
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


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        struct.pack("<Q", 2**63),
        struct.pack("<Q", 99_000_000) + b"{",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 60) + b'{"a":{"dtype":"F32","shape":[9999999999],"data_offsets":[0,4]}}'[:60],
        struct.pack("<Q", 61) + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,400000000]}}',
    ],
)
def test_hostile_safetensors(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"w\.safetensors"):
        load_model(tmp_path / "w.safetensors")


@pytest.mark.filterwarnings("ignore::dinokit.checkpoints.model.AssumptionWarning")
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_cut_and_damaged_files_never_end_in_a_stack_trace(suffix: str, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / f"w{suffix}"
    state = load((folder / "model.safetensors").read_bytes())
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    content, dice = path.read_bytes(), random.Random(0)
    for _ in range(20):
        path.write_bytes(content[: dice.randrange(len(content))])
        with pytest.raises(UserError):
            load_model(path)
    for _ in range(20):  # in the header, where it hurts
        damaged = bytearray(content)
        damaged[dice.randrange(4000)] ^= 1 << dice.randrange(8)
        path.write_bytes(damaged)
        try:
            load_model(path)
        except UserError:
            continue


class Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("way", ["zip", "zip in weights", "plain", "plain protocol 2"])
def test_a_pickle_with_code_is_refused_and_not_executed(way: str, tmp_path: Path) -> None:
    target, path = tmp_path / "executed", tmp_path / "w.pth"
    if way.startswith("zip"):
        payload: Any = Payload(target)
        torch.save({"teacher": {"backbone.cls_token": payload}} if "weights" in way else payload, path)
    else:
        path.write_bytes(pickle.dumps(Payload(target), protocol=2 if "2" in way else None))
    with pytest.raises(UserError, match="carries code or objects"):
        load_model(path)
    assert not target.exists()
    if way == "zip":
        pickle.loads(pickle.dumps(Payload(target)))  # the payload is a real one
        assert target.exists()


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(40_000_000)}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as bomb,
    ):
        for name in plain.namelist():
            bomb.writestr(name, plain.read(name))
    with pytest.raises(UserError, match="would unpack to 152 MiB"):
        load_model(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.full((192,), float("nan")), "not finite"),
        (torch.zeros(192, dtype=torch.int64), "not a dense array of floats"),
        (torch.zeros(192).to_sparse(), "not a dense array of floats"),
        (torch.zeros(1).expand(192), "claims more elements than it has"),
        (torch.zeros(192, device="meta"), "has no data"),
        (torch.zeros(193), r"of shape \[193\], not \[192\]"),
    ],
)
def test_weights_that_are_none_name_their_key(
    value: Tensor, said: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save({**state, "norm.bias": value}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=rf"norm\.bias.*{said}"):
        load_model(tmp_path / "w.pth")


def test_a_file_that_claims_a_giant_is_refused_before_it_is_built(tmp_path: Path) -> None:
    giant = {"patch_embed.proj.weight": (10**6, 3, 16, 16), "blocks.0.mlp.fc1.weight": (10**6, 1)}
    state = {key: torch.zeros(1).expand(shape) for key, shape in giant.items()}
    torch.save({**state, "rope_embed.periods": torch.ones(16)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="width is 1000000"):
        load_model(tmp_path / "w.pth")


def test_missing_and_unknown_keys_are_named(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({key: value for key, value in state.items() if key != "norm.bias"}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"a\.pth lacks norm\.bias"):
        load_model(tmp_path / "a.pth")
    torch.save({**state, "blocks.0.extra": torch.zeros(1)}, tmp_path / "b.pth")
    with pytest.raises(UserError, match=r"unknown blocks\.0\.extra"):
        load_model(tmp_path / "b.pth")


@pytest.mark.parametrize(
    ("layout", "name", "said"),
    [
        ("meta", "dinov3_convnext_tiny", "ConvNeXt"),
        ("timm", "convnext_tiny.dinov3_lvd1689m", "ConvNeXt"),
        ("transformers5", "dinov3-convnext-tiny-pretrain-lvd1689m", "ConvNeXt"),
        ("timm", "vit_small_patch16_dinov3", "timm"),
        ("transformers5", "dinov3-vits16-pretrain-lvd1689m", "transformers"),
    ],
)
def test_another_network_is_called_by_its_name(layout: str, name: str, said: str, tmp_path: Path) -> None:
    torch.save({key: torch.zeros(1) for key in KEYS[layout][name]["keys"]}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=said):
        load_model(tmp_path / "w.pth")


@pytest.mark.parametrize(
    "content",
    [5, [], {}, {"epoch": 3}, {"model": {"cls_token": "x"}}, {"a": torch.zeros(2)}, {"teacher": {}}, {1: torch.ones(1)},
     {"patch_embed.proj.weight": torch.ones(3), "rope_embed.periods": torch.ones(())}],
)  # fmt: skip
def test_a_pickle_without_a_network(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth"):
        load_model(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("dinokit_vit16", "did you mean dinokit_vitt16"),
        ("random:dinov3_vits17", "did you mean"),
        ("random:dinokit_vitt16:x", "not a whole number"),
        ("random:dinokit_vitt16:" + "9" * 40, "not a whole number"),
        ("x" * 5000, "there is no model"),
        ("a\0b", "there is no model"),
        (str(GOLDEN), "has no config.json"),
        (__file__, "not a weights file"),
    ],
)
def test_names_that_are_no_model(source: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_model(source)


@pytest.mark.parametrize("overrides", [{"colour": 1}, {"depth": -1}, {"std": 3}, {"image_size": 0}, {"rope_base": 0}])
def test_impossible_overrides(overrides: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        load_model("random:dinokit_vitt16", **overrides)


def test_a_changed_weights_file_is_noticed(folder: Path, tmp_path: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(content)
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    assert hashlib.sha256(content).hexdigest() not in (tmp_path / "config.json").read_text()
    with pytest.raises(UserError, match="does not have the hash"):
        load_model(tmp_path)
