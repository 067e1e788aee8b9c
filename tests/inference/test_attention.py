"""Every form of attention gives softmax(q kᵀ) v, for scores of any size and sequences of any length."""

import pytest
import torch
from helpers_prepared import CPU, FORMATS, FORMS, few_sizes_from_now_on

from dinokit.inference import attention


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
