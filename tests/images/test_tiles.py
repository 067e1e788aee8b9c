"""Tiles cover a grid, overlap as stated, and their weights add up smoothly."""

from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dinokit.images.tiles import OVERLAP, plan_tiles

sides = st.integers(1, 200)


@settings(deadline=None)
@given(sides, sides, sides)
def test_tiles_cover_the_grid_and_overlap(rows: int, cols: int, side: int) -> None:
    plan = plan_tiles(rows, cols, side)
    total = torch.zeros(rows, cols)
    for top, left in plan.places:
        weights = plan.weights(top, left)
        assert weights.shape == (plan.height, plan.width) == (min(side, rows), min(side, cols))
        assert weights.min() > 0
        total[top : top + plan.height, left : left + plan.width] += weights
        assert top + plan.height <= rows
        assert left + plan.width <= cols
    assert total.min() > 0
    for starts, height in ((plan.tops, plan.height), (plan.lefts, plan.width)):
        for before, after in pairwise(starts):
            assert before < after
            assert before + height - after >= min(int(height * OVERLAP), height - 1)


def test_a_grid_that_a_tile_covers_is_one_tile_of_equal_weights() -> None:
    plan = plan_tiles(30, 40, 64)
    assert plan.places == [(0, 0)]
    assert (plan.weights(0, 0) == 1).all()


def test_weights_fall_towards_the_edges_inside_the_picture_only() -> None:
    plan = plan_tiles(16, 28, 16)
    assert plan.places == [(0, 0), (0, 12)]
    left, right = plan.weights(0, 0), plan.weights(0, 12)
    assert left[0].tolist() == [1.0] * 13 + [0.75, 0.5, 0.25]
    assert right[0].tolist() == [0.25, 0.5, 0.75] + [1.0] * 13
