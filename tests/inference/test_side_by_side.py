"""Work on all cores gives what one core gives, whoever calls from wherever."""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers_golden import assert_same
from helpers_prepared import CPU, FORMATS, FORMS, random_network

from dinokit.inference import attention, frozen_block, linear, prepared_vit, side_by_side
from dinokit.inference.prepared import prepare
from dinokit.inference.side_by_side import split_batch


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
