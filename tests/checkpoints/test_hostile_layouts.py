"""Damaged and hostile files of every layout: one clear error each or a valid model, and memory stays bounded."""

import json
import random
import resource
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints.networks import SPECS, random_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor

from dinokit.checkpoints.export import NAMES, export_model
from dinokit.checkpoints.load import load_model
from dinokit.errors import UserError

CASES = [(layout, kind) for layout in NAMES for kind in ("swiglu", "convnext")]
GROWTH = 300  # MiB that no hostile file of a few hundred kilobytes may cost
pytestmark = [
    pytest.mark.filterwarnings("ignore::dinokit.checkpoints.model.AssumptionWarning"),
    pytest.mark.filterwarnings("ignore::dinokit.checkpoints.export.LossWarning"),
    pytest.mark.usefixtures("one_thread"),
]


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """The process does not grow by more than `GROWTH`."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < GROWTH


class Files(dict[str, bytes]):
    """Contents by name, which are not printed."""

    def __repr__(self) -> str:
        return f"Files({', '.join(self)})"


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(case))
def good(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a good model by name."""
    layout, kind = request.param
    folder, model = tmp_path_factory.mktemp("good"), random_model(SPECS[kind])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export_model(folder, model.network.state_dict(), model.info, layout)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return Files({"anything.pth" if name.endswith(".pth") else name: content for name, content in files.items()})


def weights_of(files: dict[str, bytes]) -> str:
    return next(name for name in files if name.endswith((".pth", ".safetensors")))


def try_to_load(files: dict[str, bytes], folder: Path) -> bool:
    """Whether these files load. Anything but a model or a `UserError` of one line fails the test."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    name = weights_of(files)
    try:
        model = load_model(folder / name if name != "model.safetensors" else folder)
    except UserError as problem:
        said = str(problem)
    else:
        assert all(bool(value.isfinite().all()) for value in model.network.state_dict().values())
        return True
    assert "\n" not in said
    assert len(said) < 1000
    return False


def test_the_undamaged_files_load(good: dict[str, bytes], tmp_path: Path) -> None:
    assert try_to_load(good, tmp_path)


def test_cut_files_are_refused(good: dict[str, bytes], tmp_path: Path) -> None:
    dice, name = random.Random(0), weights_of(good)
    for _ in range(20):
        assert not try_to_load({**good, name: good[name][: dice.randrange(len(good[name]))]}, tmp_path)


@pytest.mark.parametrize("where", ["anywhere", "header", "end"])
def test_random_bytes(where: str, good: dict[str, bytes], tmp_path: Path) -> None:
    dice, name = random.Random(1), weights_of(good)
    size = len(good[name])
    start, stop = {"anywhere": (0, size), "header": (0, 4000), "end": (size - 3000, size)}[where]
    for _ in range(20):
        content = bytearray(good[name])
        for _ in range(dice.choice([1, 1, 2, 50])):
            content[dice.randrange(start, stop)] = dice.randrange(256)
        loaded = try_to_load({**good, name: bytes(content)}, tmp_path)
        assert not (loaded and "weights_sha256" in good.get("config.json", b"").decode() and content != good[name])


def header_of(content: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def with_header(header: Any, body: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [2**40, 2**20]},
        {"shape": [-1]},
        {"shape": []},
        {"shape": [1.5]},
        {"data_offsets": [0, 2**50]},
        {"data_offsets": [10, 4]},
        {"dtype": "F8_E4M3"},
        {"dtype": "I64"},
        {"dtype": "X9"},
        {"shape": [0]},
    ],
)
@pytest.mark.parametrize("good", [case for case in CASES if case[0] != "meta"], ids="-".join, indirect=True)
def test_hostile_headers(change: dict[str, Any], good: dict[str, bytes], tmp_path: Path) -> None:
    name = weights_of(good)
    header, body = header_of(good[name])
    key = next(key for key in header if key != "__metadata__")
    header[key] = {**header[key], **change}
    assert not try_to_load({**good, name: with_header(header, body)}, tmp_path)


def state_of(files: dict[str, bytes], folder: Path) -> dict[str, Tensor]:
    """The weights under the names of their layout, each in memory of its own."""
    name = weights_of(files)
    if name.endswith(".safetensors"):
        return load(files[name])
    (folder / name).write_bytes(files[name])
    return {key: value.clone() for key, value in torch.load(folder / name, weights_only=True).items()}


def test_a_lost_key_is_named(good: dict[str, bytes], tmp_path: Path) -> None:
    state = state_of(good, tmp_path)
    for key in random.Random(2).sample(sorted(state), 25):
        rest = {other: value for other, value in state.items() if other != key}
        if key in OPTIONAL or key.startswith("norms.3."):
            continue
        assert not try_to_load({"w.safetensors": save(rest)}, tmp_path), key


def test_a_tensor_of_another_shape_is_refused(good: dict[str, bytes], tmp_path: Path) -> None:
    state = state_of(good, tmp_path)
    for key in random.Random(3).sample(sorted(state), 15):
        value = state[key]
        for form in (value.new_zeros(0), value.new_zeros(()), value.flatten()[:-1], value.new_zeros(3, 1, 2)):
            if value.numel() and not key.startswith("norms.3."):
                loaded = try_to_load({"w.safetensors": save({**state, key: form.clone()})}, tmp_path)
                assert not loaded or (key in OPTIONAL and not form.numel()), key


OPTIONAL = {"storage_tokens", "reg_token", "embeddings.register_tokens", "rope_embed.periods"}
"""Keys without which the file is that of another good network."""

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_nonsense_in_the_json_files(data: st.DataObject, good: dict[str, bytes], tmp_path: Path) -> None:
    texts = sorted(name for name in good if name.endswith(".json"))
    if not texts:
        return
    name = data.draw(st.sampled_from(texts))
    content = json.loads(good[name])
    place = content
    for _ in range(data.draw(st.integers(0, 2))):
        inner = [key for key, value in place.items() if isinstance(value, dict)]
        if inner:
            place = place[data.draw(st.sampled_from(inner))]
    if place:
        place[data.draw(st.sampled_from(sorted(place)))] = data.draw(JSON)
    try_to_load({**good, name: json.dumps(content).encode()}, tmp_path)


@pytest.mark.parametrize("content", [b"", b"null", b"[1]", b"[" * 100_000, b"\xff", b'{"model_type": []}', b"{}"])
def test_json_files_that_are_none(content: bytes, good: dict[str, bytes], tmp_path: Path) -> None:
    for name in [name for name in good if name.endswith(".json")]:
        loaded = try_to_load({**good, name: content}, tmp_path)
        assert not loaded or (name == "preprocessor_config.json" and content.startswith(b"{"))
