"""The stream: weights kept, no repeats within an epoch, resumed by one integer."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinokit.data.mixture import Mixture, permutation
from dinokit.errors import UserError


def parts(*lengths: int) -> list[range]:
    return [range(length) for length in lengths]


def test_the_stream_is_a_pure_function_of_seed_and_number() -> None:
    whole = np.stack(Mixture(parts(1000, 300), seed=3).draw(0, 10_000))
    mixture = Mixture(parts(1000, 300), seed=3)
    for first, count in ((9_000, 100), (0, 7), (4_090, 20), (1_234, 5_000)):  # in any order
        np.testing.assert_array_equal(np.stack(mixture.draw(first, count)), whole[:, first : first + count])
    other = np.stack(Mixture(parts(1000, 300), seed=4).draw(0, 10_000))
    assert (other != whole).any(axis=0).mean() > 0.9


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 700), min_size=1, max_size=4), st.integers(0, 2**63), st.integers(0, 50_000))
def test_no_picture_comes_twice_before_all_of_its_part_have_come(lengths: list[int], seed: int, skip: int) -> None:
    mixture = Mixture(parts(*lengths), seed=seed)
    chosen, indices = mixture.draw(0, 8192)
    for part, length in enumerate(lengths):
        mine = indices[chosen == part]
        whole = mine[: len(mine) // length * length].reshape(-1, length)
        assert (np.sort(whole, axis=1) == np.arange(length)).all()
    later = mixture.draw(skip, 50)
    assert (later[1] >= 0).all()
    assert (later[1] < np.array(lengths)[later[0]]).all()


def test_epochs_differ_and_are_shuffled() -> None:
    _, indices = Mixture(parts(500)).draw(0, 1000)
    first, second = indices[:500], indices[500:]
    assert (first != second).any()
    assert (first != np.arange(500)).any()
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.2
    assert abs(np.corrcoef(first, np.arange(500))[0, 1]) < 0.2


def test_weights_are_kept_in_the_long_run_and_locally() -> None:
    chosen, _ = Mixture(parts(100, 5000), weights=[3, 7]).draw(0, 8192)
    assert chosen.mean() == pytest.approx(0.7, abs=0.001)
    for window in chosen.reshape(-1, 512):
        assert window.mean() == pytest.approx(0.7, abs=0.1)
    by_length, _ = Mixture(parts(100, 300)).draw(0, 4096)
    assert by_length.mean() == pytest.approx(0.75, abs=0.001)
    rare, _ = Mixture(parts(10, 10), weights=[1, 1e9]).draw(0, 4096)
    assert (rare == 0).sum() == 1


def test_the_shuffle_is_the_same_on_every_machine() -> None:
    assert permutation(10, 42).tolist() == [0, 8, 5, 2, 7, 6, 3, 1, 9, 4]
    assert permutation(10, 42, 1).tolist() == [0, 1, 4, 5, 7, 2, 6, 3, 9, 8]


def test_wrong_weights_are_named() -> None:
    with pytest.raises(UserError, match="weights are 1: give 2"):
        Mixture(parts(3, 4), weights=[1])
    for weights in ([0, 1], [-1, 1], [float("nan"), 1], [float("inf"), 1]):
        with pytest.raises(UserError, match="give positive numbers"):
            Mixture(parts(3, 4), weights=weights)
    with pytest.raises(UserError, match="is empty"):
        Mixture(parts(3, 0))
