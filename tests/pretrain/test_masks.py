"""Masks hide exactly as many patches as asked, in blocks, with the statistics of the published generator."""

from typing import Any

import numpy as np
import pytest
from helpers_golden import load_golden
from numpy.typing import NDArray

from dinokit.pretrain.masks import _rectangle, _unpack, batch_masks, block_mask, place_blocks

_, FACTS = load_golden("schedules")
DRAWS = 1000


def statistics(masks: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
    """One value per draw of each statistic in the golden file, from masks [draws, h, w]."""
    padded = np.pad(masks, ((0, 0), (1, 1), (1, 1)))
    around = padded[:, :-2, 1:-1] | padded[:, 2:, 1:-1] | padded[:, 1:-1, :-2] | padded[:, 1:-1, 2:]
    pairs = (masks[:, 1:] & masks[:, :-1]).sum((1, 2)) + (masks[:, :, 1:] & masks[:, :, :-1]).sum((1, 2))
    middle = masks.shape[1] // 2
    sides = np.concatenate([masks[:, 0], masks[:, -1], masks[:, :, 0], masks[:, :, -1]], axis=1)
    return {
        "neighbour_pairs_mean": pairs.astype(np.float64),
        "isolated_masked_cells_mean": (masks & ~around).sum((1, 2)).astype(np.float64),
        "mean_mask_prob_centre4": masks[:, middle - 1 : middle + 1, middle - 1 : middle + 1].mean((1, 2)),
        "mean_mask_prob_corners": masks[:, :: masks.shape[1] - 1, :: masks.shape[2] - 1].mean((1, 2)),
        "mean_mask_prob_border": sides.mean(1),
    }


def assert_same_mean(name: str, samples: NDArray[np.float64], expected: float) -> None:
    # Both sides are means of 1,000 draws, so their difference has the standard error sd * sqrt(2 / 1000).
    # We allow 5 of these errors (one false alarm in 20,000 runs with fresh seeds; here the seed is fixed).
    # Where a statistic is rare, its sd is floored at that of one event in 1,000 draws.
    error = max(float(samples.std()), np.sqrt(1 / DRAWS)) * np.sqrt(2 / DRAWS)
    assert abs(float(samples.mean()) - expected) < 5 * error, f"{name}: {samples.mean():.4f}, published {expected}"


@pytest.mark.parametrize("case", FACTS["block_masks"], ids=lambda c: f"{c['grid']}-{c['ratio']}")
def test_masks_have_the_published_shape_statistics(case: dict[str, Any]) -> None:
    grid, target = (case["grid"], case["grid"]), case["target"]
    rng = np.random.default_rng(7)
    masks = np.stack([block_mask(grid, target, rng) for _ in range(DRAWS)])
    assert {int(n) for n in masks.sum((1, 2))} == {case["coverage_min"]} == {case["coverage_max"]}
    for name, samples in statistics(masks).items():
        assert_same_mean(name, samples, case[name])
    placed = np.array([place_blocks(grid, target, rng).bit_count() for _ in range(DRAWS)], dtype=np.float64)
    assert_same_mean("placed_by_blocks_mean", placed, case["placed_by_blocks_mean"])
    finished = (placed < target).astype(np.float64)
    assert_same_mean("completed_randomly", finished, case["fraction_of_draws_completed_randomly"])


@pytest.mark.parametrize("case", FACTS["collate"], ids=lambda c: f"{c['batch']}x{c['n_tokens']}")
def test_a_batch_has_the_published_number_of_masked_patches(case: dict[str, Any]) -> None:
    side = round(case["n_tokens"] ** 0.5)
    batch = batch_masks(
        2 * case["batch"],
        (side, side),
        probability=case["mask_probability"],
        ratio=tuple(case["ratio_min_max"]),
        rng=np.random.default_rng(0),
    )
    assert sorted(batch.masks.sum(1).tolist()) == case["sorted_masked_counts_over_2B_rows"]
    assert len(batch.indices) == case["n_masked_patches"]


@pytest.mark.parametrize("roll", [False, True])
def test_indices_and_weights_point_at_the_masked_tokens(roll: bool) -> None:
    batch = batch_masks(12, (6, 9), rng=np.random.default_rng(1), roll=roll)
    assert batch.masks.shape == (12, 54)
    assert batch.indices.tolist() == batch.masks.flatten().nonzero().flatten().tolist()
    rows = batch.indices // 54
    masked = batch.masks.sum(1)
    assert batch.weights.tolist() == pytest.approx((1 / masked[rows]).tolist())
    assert float(batch.weights.sum()) == pytest.approx(6, abs=1e-5), "each masked row counts once"


def test_masked_rows_are_anywhere_in_the_batch() -> None:
    rng = np.random.default_rng(0)
    often = sum(batch_masks(8, (4, 4), rng=rng).masks.any(1).int() for _ in range(400))
    assert bool(((often > 150) & (often < 250)).all()), "200 expected, sd 10"  # type: ignore[union-attr]


def test_rolled_masks_reach_the_border_as_often_as_the_centre() -> None:
    rng = np.random.default_rng(0)
    draws = [batch_masks(64, (8, 8), probability=1, rng=rng, roll=True).masks for _ in range(30)]
    frequency = sum(d.float().mean(0) for d in draws) / len(draws)  # 1,920 masks, each cell expected at 0.3
    assert float((frequency - 0.3).abs().max()) < 5 * (0.3 * 0.7 / 1920) ** 0.5 + 0.01  # type: ignore[union-attr]


@pytest.mark.parametrize("grid", [(1, 1), (1, 9), (2, 2), (3, 3), (4, 4), (6, 6), (5, 17), (40, 30)])
def test_every_grid_and_every_target_works(grid: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    cells = grid[0] * grid[1]
    for target in range(0, cells + 1, max(cells // 50, 1)):
        mask = block_mask(grid, target, rng)
        assert mask.shape == grid
        assert mask.sum() == target


def test_a_block_never_reaches_from_border_to_border() -> None:
    rng = np.random.default_rng(0)
    fitting = [block for draws in rng.random((5000, 4)).tolist() if (block := _rectangle((5, 5), 12, draws))]
    assert len(fitting) > 3000
    for block in fitting:
        mask = _unpack(block, (5, 5))
        assert not mask.all(0).any()
        assert not mask.all(1).any()


def test_nothing_to_mask_gives_empty_indices() -> None:
    batch = batch_masks(4, (6, 6), probability=0, rng=np.random.default_rng(0))
    assert not batch.masks.any()
    assert len(batch.indices) == len(batch.weights) == 0


def test_same_seed_same_masks() -> None:
    first, second = (batch_masks(16, (6, 6), rng=np.random.default_rng(3)).masks for _ in range(2))
    assert first.equal(second)


def test_impossible_masks_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot mask 17 cells"):
        block_mask((4, 4), 17, np.random.default_rng(0))
    with pytest.raises(ValueError, match="ratio"):
        batch_masks(4, (4, 4), ratio=(0.5, 0.1), rng=np.random.default_rng(0))
