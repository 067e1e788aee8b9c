"""The prepared copy gives the features of the readable network, whichever forms of products and attention it uses."""

import copy
import importlib.util
from pathlib import Path

import pytest
import torch
from helpers_golden import assert_same, load_golden
from helpers_prepared import CPU, FORMATS, FORMS, few_sizes_from_now_on, random_network

from dinokit.backbones.features import Features
from dinokit.backbones.rope import RopeSpec
from dinokit.backbones.vit import VisionTransformer
from dinokit.inference import attention, linear, prepared_vit
from dinokit.inference.prepared import prepare

GOLDEN = ["vit_mlp", "vit_swiglu", "vit_splus", "vit_untied", "vit_plain"]


def golden_network(name: str) -> tuple[VisionTransformer, dict[str, torch.Tensor]]:
    path = Path(__file__).parents[1] / "backbones" / "test_vit_golden.py"
    spec = importlib.util.spec_from_file_location("golden_networks", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network, tensors, _ = module.golden_network(name)
    return network.eval(), tensors


@pytest.fixture(params=[False, True], ids=["public", "packed"])
def packing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Run once with public and once with packed products."""
    monkeypatch.setattr(prepared_vit, "packing_pays", lambda *_: request.param)
    return bool(request.param)


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("name", GOLDEN)
def test_equals_the_published_code(name: str, dtype: torch.dtype) -> None:
    network, tensors = golden_network(name)
    fast = prepare(network, CPU, dtype)
    assert len(tensors) == len(load_golden(name)[0])
    for key in (key.removeprefix("in.") for key in tensors if key.startswith("in.") and "masks" not in key):
        pictures = tensors[f"in.{key}"]
        features = fast(pictures)
        expected = Features(
            tensors[f"out.{key}.x_norm_clstoken"],
            tensors[f"out.{key}.x_storage_tokens"],
            tensors[f"out.{key}.x_norm_patchtokens"].reshape(features.patches.shape),
        )
        assert_same(features, expected, dtype)
        assert features.grid is not None
        assert features.grid.sizes == (tuple(pictures.shape[2:]),) * len(pictures)


VARIANTS: dict[str, dict[str, object]] = {
    "mlp": {},
    "swiglu": {"ffn": "swiglu"},
    "no qkv bias": {"qkv_bias": False, "mask_k_bias": False},
    "unmasked keys": {"mask_k_bias": False},
    "no LayerScale": {"layer_scale": None},
    "no registers": {"registers": 0},
    "untied norms": {"untied_cls_norm": True, "local_cls_norm": True},
    "one head, other epsilon": {"heads": 1, "norm_eps": 1e-3},
    "rope by longer side": {"rope": RopeSpec(normalize="max", rescale=2.0)},
}


@torch.no_grad()
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("changes", VARIANTS.values(), ids=list(VARIANTS))
def test_equals_the_readable_network(changes: dict[str, object], dtype: torch.dtype, packing: bool) -> None:
    network = random_network(**changes)
    fast = prepare(network, CPU, dtype)
    assert fast.packed == packing
    for height, width in ((8, 8), (40, 24), (24, 136), (47, 33)):
        pictures = torch.randn(2, 3, height, width)
        assert_same(fast(pictures), network(pictures), dtype)


@torch.no_grad()
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_attention_gives_the_same(
    form: attention.Form, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = random_network()
    monkeypatch.setattr(prepared_vit, "choose_form", lambda *_: form)
    monkeypatch.setattr(attention, "QUERY_ROWS", 7)
    pictures = torch.randn(2, 3, 40, 24)
    assert_same(prepare(network, CPU, dtype)(pictures), network(pictures), dtype)


@torch.no_grad()
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("form", FORMS)
def test_padding_to_few_sizes_changes_nothing(
    form: attention.Form, dtype: torch.dtype, packing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = random_network()
    fast = prepare(network, CPU, dtype)
    monkeypatch.setattr(prepared_vit, "choose_form", lambda *_: form)
    few_sizes_from_now_on(monkeypatch, exact=0)
    monkeypatch.setattr(linear, "ROWS", 48)
    monkeypatch.setattr(attention, "QUERY_ROWS", 7)
    for batch, height, width in ((1, 8, 8), (2, 40, 24), (5, 24, 56), (3, 16, 32)):
        pictures = torch.randn(batch, 3, height, width)
        assert_same(fast(pictures), network(pictures), dtype)


def test_pictures_of_many_sizes_use_products_of_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN keeps compiled code for every shape of a product: 300 sizes of pictures took a gigabyte."""
    monkeypatch.setattr(prepared_vit, "packing_pays", lambda *_: False)
    monkeypatch.setattr(prepared_vit, "choose_form", lambda *_: "written out")
    few_sizes_from_now_on(monkeypatch, exact=4)
    fast = prepare(random_network(depth=1), CPU, torch.bfloat16)
    rows: set[int] = set()
    lengths: set[int] = set()
    multiply, softmax = linear.F.linear, torch.softmax

    def note_rows(x: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        rows.add(x.shape[0])
        return multiply(x, *rest)

    def note_length(scores: torch.Tensor, dim: int, out: torch.Tensor) -> torch.Tensor:
        lengths.add(scores.shape[-1])
        return softmax(scores, dim=dim, out=out)

    monkeypatch.setattr(linear.F, "linear", note_rows)
    monkeypatch.setattr(torch, "softmax", note_length)
    for tall in range(1, 16):
        for wide in range(1, 11):
            fast(torch.randn(1, 3, 8 * tall, 8 * wide))
    assert len(rows) <= 4 + 11  # of 71 numbers of patches and of tokens up to 155
    assert len(lengths) <= 4 + 11


@pytest.mark.parametrize("batch", [1, 4])
def test_an_outer_autocast_changes_nothing(batch: int) -> None:
    network, pictures, threads = random_network(), torch.randn(batch, 3, 40, 24), torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        expected = prepare(network, CPU, torch.float32)(pictures)
        with torch.autocast("cpu", torch.bfloat16):
            fast = prepare(network, CPU, torch.float32)
            found = fast(pictures)
        assert torch.equal(found.patches, expected.patches)
        assert torch.equal(found.cls, expected.cls)
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
@pytest.mark.parametrize("norm", [True, False])
def test_intermediate_layers_in_the_order_asked_for(norm: bool, packing: bool) -> None:
    network = random_network(depth=4)
    pictures = torch.randn(2, 3, 32, 24)
    layers = [2, -4, 2, -1]
    found = prepare(network, CPU, torch.float32).intermediate(pictures, layers, norm)
    expected = network.intermediate(pictures, layers, norm)
    assert len(found) == len(layers)
    for actual, wanted in zip(found, expected, strict=True):
        assert_same(actual, wanted, torch.float32)


@torch.no_grad()
def test_is_a_frozen_copy_and_leaves_its_input_alone(packing: bool) -> None:
    network = random_network(layer_scale=None)
    pictures = torch.randn(1, 3, 16, 16)
    given = pictures.clone()
    before = copy.deepcopy(network)
    fast = prepare(network, CPU, torch.float32)
    first = fast(pictures)
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, before.get_parameter(name)), name
        parameter.zero_()
    assert torch.equal(fast(pictures).patches, first.patches)
    assert torch.equal(pictures, given)


def test_training_mode_of_the_network_does_not_matter() -> None:
    network = random_network(rope=RopeSpec(rescale=2.0), drop_path=0.5)
    pictures = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = network(pictures)
    assert_same(prepare(network.train(), CPU, torch.float32)(pictures), expected, torch.float32)
    assert network.training
