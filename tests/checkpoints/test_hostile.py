"""Damaged and hostile weights: one clear error each, nothing executed, no memory without bound."""

import hashlib
import json
import os
import pickle
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_golden import GOLDEN
from safetensors.torch import load, save_file
from torch import Tensor

from dinokit.checkpoints.load import load_model
from dinokit.checkpoints.save import write_atomically
from dinokit.errors import UserError

KEYS = json.loads((GOLDEN / "keys.json").read_text())


@pytest.fixture
def state(folder: Path) -> dict[str, Tensor]:
    return load((folder / "model.safetensors").read_bytes())


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


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><p>404", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a Git LFS pointer, .*: fetch it"),
        (random.Random(0).randbytes(3000), "is neither safetensors nor a torch checkpoint"),
        (b"PK\3\4" + bytes(100), "is damaged or cut off"),
        (b"\x80\2}q\0", "is damaged or cut off"),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_files_that_are_no_weights_are_called_what_they_are(
    content: bytes, said: str, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"w{suffix} {said}"):
        load_model(path)


def test_safetensors_without_a_network_are_not_called_damaged(tmp_path: Path) -> None:
    save_file({"in.knn.train_labels": torch.zeros(3, dtype=torch.int64)}, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"not the weights of a DINOv3 .*no patch_embed"):
        load_model(tmp_path / "w.safetensors")


def test_any_legal_name_can_be_written_and_a_longer_one_is_an_error(tmp_path: Path) -> None:
    write_atomically(tmp_path / ("n" * 255), b"x")
    assert [len(path.name) for path in tmp_path.iterdir()] == [255]
    with pytest.raises(UserError, match=r"cannot write .*File name too long"):
        write_atomically(tmp_path / ("n" * 256), b"x")
    assert len(list(tmp_path.iterdir())) == 1


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


@pytest.mark.parametrize("way", ["plain", "legacy", "zip"])
@pytest.mark.parametrize(
    "name", ["builtins bytearray", "torch Tensor", "_codecs encode", "torch._utils _rebuild_qtensor"]
)
def test_a_pickle_that_calls_for_gigabytes_is_refused(way: str, name: str, tmp_path: Path) -> None:
    call = b"\x80\x02c" + name.replace(" ", "\n").encode() + b"\n\x8a\x05\x00\x58\x47\xf8\x0d\x85R."  # NAME(60e9)
    path = tmp_path / "w.pth"
    if way == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("w/data.pkl", call)
    else:
        torch.save(1, path, _use_new_zipfile_serialization=False)
        before = path.read_bytes()
        path.write_bytes(call if way == "plain" else before[: before.index(b"K\x01.")] + call)
    with pytest.raises(UserError, match=rf"carries code or objects.*{name.replace(' ', '.')}"):
        load_model(path)


@pytest.mark.filterwarnings("ignore::dinokit.checkpoints.model.AssumptionWarning")
def test_what_pytorch_writes_with_weights_is_read(state: dict[str, Tensor], tmp_path: Path) -> None:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2).half())])
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 3, 5])
    content = {"model": {key: torch.nn.Parameter(value) for key, value in state.items()},
               "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(),
               "dtype": torch.bfloat16, "shape": torch.Size([1]), "device": torch.device("cpu")}  # fmt: skip
    for zipped in (True, False):
        torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
        assert torch.equal(load_model(tmp_path / "w.pth").network.state_dict()["norm.bias"], state["norm.bias"])


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
        (torch.zeros(192, dtype=torch.int64), "holds int64 numbers, .* something else than weights"),
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


@pytest.mark.parametrize("key", ["rope_embed.periods", "patch_embed.proj.weight"])
@pytest.mark.parametrize("kind", ["meta", "sparse", "nested"])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_what_the_shape_is_read_from_must_be_plain(
    key: str, kind: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    forms = {
        "meta": lambda t: t.to("meta"),
        "sparse": Tensor.to_sparse,
        "nested": lambda t: torch.nested.nested_tensor([t]),
    }
    torch.save({**state, key: forms[kind](state[key])}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth"):
        load_model(tmp_path / "w.pth")


def test_a_file_that_claims_a_giant_is_refused_before_it_is_built(tmp_path: Path) -> None:
    giant = {"patch_embed.proj.weight": (20_000, 1, 1, 1), "blocks.0.mlp.fc1.weight": (20_000, 1)}
    state = {key: torch.zeros(shape) for key, shape in giant.items()}
    torch.save({**state, "rope_embed.periods": torch.ones(16)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="width is 20000"):
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
        ("meta", "dinov3_convnext_tiny", "not the weights"),
        ("timm", "convnext_tiny.dinov3_lvd1689m", "not the weights"),
        ("transformers5", "dinov3-convnext-tiny-pretrain-lvd1689m", "not the weights"),
        ("timm", "vit_small_patch16_dinov3", "not the weights"),
        ("transformers5", "dinov3-vits16-pretrain-lvd1689m", "not the weights"),
    ],
)
def test_right_names_with_wrong_shapes(layout: str, name: str, said: str, tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    "overrides",
    [{"colour": 1}, {"depth": -1}, {"mean": [10**400, 0, 0]}, {"std": 3}, {"image_size": 0}, {"rope_base": 0}],
)
def test_impossible_overrides(overrides: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        load_model("random:dinokit_vitt16", **overrides)


def test_a_changed_weights_file_is_noticed(folder: Path, tmp_path: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(content)
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    assert hashlib.sha256(content).hexdigest() not in (tmp_path / "config.json").read_text()
    with pytest.raises(UserError, match=r"does not have the hash .*: is it being written"):
        load_model(tmp_path)
