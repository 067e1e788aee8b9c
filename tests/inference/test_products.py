"""Frozen products agree however they are computed, and the choice between forms is a fair one."""

import pytest
import torch
from helpers_prepared import CPU, FORMATS

from dinokit.inference import few_sizes, linear


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


def test_a_change_must_win_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0])
    now = 0.0

    def spend(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(linear.time, "thread_time", lambda: next(clock, now))
    assert linear.fastest({"first": lambda: spend(1.00), "other": lambda: spend(0.99)}, seconds=9) == "first"
    assert linear.fastest({"first": lambda: spend(1.00), "other": lambda: spend(0.90)}, seconds=9) == "other"


def test_few_sizes_are_at_most_six_percent_larger_and_stay_what_they_are() -> None:
    sizes = few_sizes.FewSizes()
    first = {size: sizes.fit(size) for size in range(100, 4097)}
    assert first == {size: sizes.fit(size) for size in range(100, 4097)}
    assert all(first[size] == size for size in range(100, 100 + few_sizes.EXACT))
    assert all(size <= fit <= 1.065 * size for size, fit in first.items() if size > 256)
    assert len(set(first.values())) <= few_sizes.EXACT + 16 * 6
