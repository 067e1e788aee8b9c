"""The prepared copy gives the features of the readable network, whichever forms of products and attention it uses."""

import copy
import importlib.util
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from helpers_golden import load_golden

from dinokit.backbones.features import Features
from dinokit.backbones.rope import RopeSpec
from dinokit.backbones.vit import VisionTransformer, ViTSpec
from dinokit.inference import attention, few_sizes, frozen_block, linear, prepared_vit, side_by_side
from dinokit.inference.prepared import prepare
from dinokit.inference.side_by_side import split_batch

CPU = torch.device("cpu")
FORMATS = [torch.float32, torch.bfloat16]
FORMS: list[attention.Form] = ["sdpa", "sdpa padded", "written out"]
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


def random_network(**changes: object) -> VisionTransformer:
    """Two blocks with every parameter far from its initial value."""
    torch.manual_seed(0)
    options = {"width": 64, "depth": 2, "heads": 2, "ffn_hidden": 96, "patch_size": 8, "layer_scale": 1.0}
    network = VisionTransformer(ViTSpec(**(options | changes))).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return network


@pytest.fixture(params=[False, True], ids=["public", "packed"])
def packing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Run once with public and once with packed products."""
    monkeypatch.setattr(prepared_vit, "packing_pays", lambda *_: request.param)
    return bool(request.param)


def assert_same(actual: Features, expected: Features, dtype: torch.dtype) -> None:
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


def few_sizes_from_now_on(monkeypatch: pytest.MonkeyPatch, exact: int) -> None:
    monkeypatch.setattr(few_sizes, "EXACT", exact)
    monkeypatch.setattr(linear, "_last_rows", few_sizes.FewSizes())
    monkeypatch.setattr(attention, "_lengths", few_sizes.FewSizes())


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


def test_few_sizes_are_at_most_six_percent_larger_and_stay_what_they_are() -> None:
    sizes = few_sizes.FewSizes()
    first = {size: sizes.fit(size) for size in range(100, 4097)}
    assert first == {size: sizes.fit(size) for size in range(100, 4097)}
    assert all(first[size] == size for size in range(100, 100 + few_sizes.EXACT))
    assert all(size <= fit <= 1.065 * size for size, fit in first.items() if size > 256)
    assert len(set(first.values())) <= few_sizes.EXACT + 16 * 6


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


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("gelu", [False, True])
def test_packed_and_public_products_agree(gelu: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    public = linear.Product((torch.randn(48, 64) / 8).to(dtype), torch.randn(48).to(dtype), gelu)
    try:
        packed = linear.pack(public)
    except (AttributeError, RuntimeError, NotImplementedError) as reason:
        pytest.skip(f"no packed products here: {reason}")
    x, residual = torch.randn(3, 5, 64).to(dtype), torch.randn(3, 5, 48).to(dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(packed(x), public(x), atol=tolerance, rtol=0)
    plain = linear.Product(public.weight, public.bias)
    torch.testing.assert_close(
        linear.pack(plain)(x, residual.clone()), plain(x, residual.clone()), atol=tolerance, rtol=0
    )


def test_a_pytorch_without_the_private_operators_uses_public_products(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(product: linear.Product) -> linear.Product:
        raise AttributeError("no such operator")

    monkeypatch.setattr(linear, "pack", refuse)
    linear._packing_pays.cache_clear()
    try:
        assert not linear.packing_pays(CPU, torch.float32)
    finally:
        linear._packing_pays.cache_clear()
    assert not linear.packing_pays(torch.device("cuda"), torch.bfloat16)


def test_only_processors_have_a_choice_of_attention() -> None:
    assert attention.possible_forms(CPU, 201) == FORMS
    assert attention.possible_forms(CPU, 65_536) == ["sdpa", "written out"]
    assert attention.possible_forms(torch.device("cuda"), 201) == ["sdpa"]


@torch.no_grad()
@pytest.mark.parametrize("dtype", FORMATS)
def test_scores_far_outside_of_the_range_of_exponentials_are_met(dtype: torch.dtype) -> None:
    """The fast way computes exp(score): scores of several hundred overflow, of minus several hundred vanish."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 40, 8) for _ in range(3))
    for factor, shift in ((1.0, 0.0), (40.0, 0.0), (1.0, 300.0), (1.0, -300.0)):
        scaled = torch.cat([q * factor, torch.full_like(q[..., :1], shift)], dim=-1)
        keys = torch.cat([k, torch.ones_like(k[..., :1])], dim=-1)
        expected = torch.nn.functional.scaled_dot_product_attention(
            *(t.to(dtype).double() for t in (scaled, keys, v)), scale=1.0
        )
        out = torch.empty_like(v, dtype=dtype)
        attention.attend(scaled.to(dtype), keys.to(dtype), v.to(dtype), "written out", 40, out)
        assert out.isfinite().all()
        if dtype == torch.float32:
            torch.testing.assert_close(out, expected.float(), atol=1e-3, rtol=1e-3)
        elif factor == 1.0 and shift == 0.0:
            torch.testing.assert_close(out, expected.to(dtype), atol=0.02, rtol=0.02)


@torch.no_grad()
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("tokens", [9, 16, 41, 64])
def test_blocks_of_keys_add_up(tokens: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "KEY_COLUMNS", 8)
    monkeypatch.setattr(attention, "QUERY_ROWS", 7)
    few_sizes_from_now_on(monkeypatch, exact=0)
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, tokens, 8).to(dtype) for _ in range(3))
    for factor in (1.0, 60.0):  # ordinary scores, and such as overflow
        out = torch.empty_like(v)
        attention.attend(q * factor, k, v, "written out", tokens, out)
        expected = torch.nn.functional.scaled_dot_product_attention(
            (q * factor).double(), k.double(), v.double(), scale=1.0
        )
        if dtype == torch.float32:
            torch.testing.assert_close(out, expected.float(), atol=1e-4, rtol=1e-4)
        elif factor == 1.0:
            torch.testing.assert_close(out.float(), expected.float(), atol=0.03, rtol=0.03)


@pytest.fixture
def two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@torch.no_grad()
@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("batch", [1, 3])
def test_one_picture_on_all_cores_gives_the_same(
    batch: int, form: attention.Form, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = random_network(depth=5)
    monkeypatch.setattr(side_by_side, "PART_TOKENS", 8)
    monkeypatch.setattr(attention, "MAX_SCORES", 40)
    monkeypatch.setattr(prepared_vit, "choose_form", lambda *_: form)
    fast = prepare(network, CPU, dtype)
    for _ in range(3):
        pictures = torch.randn(batch, 3, 40, 48)
        layers = [4, 0, 2]
        for norm in (True, False):
            expected = network.intermediate(pictures, layers, norm)
            for ours, theirs in zip(fast.intermediate(pictures, layers, norm), expected, strict=True):
                assert_same(ours, theirs, dtype)


@pytest.mark.usefixtures("two_threads")
def test_callers_at_the_same_time_do_not_wait_for_each_other_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_network()
    monkeypatch.setattr(side_by_side, "PART_TOKENS", 8)
    fast, pictures = prepare(network, CPU, torch.float32), torch.randn(1, 3, 40, 48)
    expected = fast(pictures).cls
    with ThreadPoolExecutor(4) as pool:
        for features in pool.map(fast, [pictures] * 24, timeout=60):
            torch.testing.assert_close(features.cls, expected)


@pytest.mark.usefixtures("two_threads")
def test_inference_mode_around_the_call_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_network()
    monkeypatch.setattr(side_by_side, "PART_TOKENS", 8)
    with torch.inference_mode():
        pictures = torch.randn(1, 3, 40, 48)
        assert_same(prepare(network, CPU, torch.float32)(pictures), network(pictures), torch.float32)


@pytest.mark.usefixtures("two_threads")
def test_first_calls_at_the_same_time_leave_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "PART_TOKENS", 8)
    monkeypatch.setattr(attention, "_chosen", {})
    monkeypatch.setattr(side_by_side, "_pools", {})
    linear._packing_pays.cache_clear()
    network, pictures = random_network(), torch.randn(1, 3, 40, 48)

    def first_call(_: int) -> int:
        prepare(network, CPU, torch.float32)(pictures)
        return torch.get_num_threads()

    with ThreadPoolExecutor(5) as callers:
        counts = list(callers.map(first_call, range(5), timeout=60))
    assert torch.get_num_threads() == 2
    assert set(counts) == {2}
    with ThreadPoolExecutor(1) as later:
        assert later.submit(torch.get_num_threads).result() == 2


@pytest.mark.usefixtures("two_threads")
def test_a_thread_that_fails_fails_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "PART_TOKENS", 8)
    fast, pictures = prepare(random_network(), CPU, torch.float32), torch.randn(1, 3, 40, 48)
    calls = itertools.count()

    def fail_once(*_: object) -> None:
        if next(calls) == 1:
            raise MemoryError("no more")

    monkeypatch.setattr(prepared_vit, "choose_form", lambda *_: "sdpa")
    monkeypatch.setattr(frozen_block, "attend", fail_once)
    with pytest.raises(MemoryError, match="no more"):
        fast(pictures)


def test_the_fastest_form_is_measured_once_for_a_class_of_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_chosen", {})
    asked: list[list[attention.Form]] = []

    def last(candidates: dict[attention.Form, object]) -> attention.Form:
        asked.append(list(candidates))
        return asked[-1][-1]

    monkeypatch.setattr(attention, "fastest", last)
    for tokens in (201, 250, 201, 300):
        assert attention.choose_form((2, tokens, 8), 2, torch.float32, CPU, lambda: lambda form: None) == "written out"
    assert asked == [FORMS, FORMS]
    assert len(attention.chosen_forms()) == 2


def test_a_change_must_win_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0])
    now = 0.0

    def spend(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(linear.time, "thread_time", lambda: next(clock, now))
    assert linear.fastest({"first": lambda: spend(1.00), "other": lambda: spend(0.99)}, seconds=9) == "first"
    assert linear.fastest({"first": lambda: spend(1.00), "other": lambda: spend(0.90)}, seconds=9) == "other"


@pytest.mark.parametrize("batch", [1, 4, 5, 9])
@pytest.mark.parametrize("dtype", FORMATS)
def test_pieces_on_threads_of_their_own_give_the_features_of_the_whole(dtype: torch.dtype, batch: int) -> None:
    fast, threads = prepare(random_network(), CPU, dtype), torch.get_num_threads()
    pictures = torch.randn(batch, 3, 40, 24)
    try:
        torch.set_num_threads(1)
        whole = fast.intermediate(pictures, [0, -1], norm=True)
        torch.set_num_threads(2)
        assert len(split_batch(pictures, 17)) == {1: 1, 4: 2, 5: 1, 9: 2}[batch]
        for parts, expected in zip(fast.intermediate(pictures, [0, -1], norm=True), whole, strict=True):
            assert_same(parts, expected, dtype)
            assert parts.grid == expected.grid
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_long_batches_become_pieces_that_fit_a_cache() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert [len(piece) for piece in split_batch(torch.zeros(16, 1), 201)] == [4, 4, 4, 4]
        assert [len(piece) for piece in split_batch(torch.zeros(4, 1), 4101)] == [1, 1, 1, 1]
    finally:
        torch.set_num_threads(threads)
