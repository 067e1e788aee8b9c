"""Nearest cells, places between cells, neighbours that agree: against plain computations and known geometry."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from dinokit.errors import UserError
from dinokit.heads import correspondence, homography, local_affine
from dinokit.heads.local_affine import agree_locally, expect, local_shapes

TILT = np.array([[0.9, 0.2, 12.0], [-0.1, 1.1, -5.0], [4e-4, -2e-4, 1.0]])


def grid(rows: int, cols: int, seed: int) -> torch.Tensor:
    return normalize(torch.randn(rows, cols, 8, generator=torch.Generator().manual_seed(seed)), dim=-1)


@settings(max_examples=30, deadline=None)
@given(st.tuples(*[st.integers(1, 12)] * 4), st.integers(0, 99))
def test_nearest_is_what_the_whole_table_says(shape: tuple[int, int, int, int], seed: int) -> None:
    first, second = grid(*shape[:2], seed), grid(*shape[2:], seed + 1)
    found = correspondence.find_nearest(first, second)
    table = first.flatten(0, 1) @ second.flatten(0, 1).T
    assert torch.equal(found.index, table.argmax(1))
    assert torch.allclose(found.similarity, table.amax(1))
    assert torch.equal(found.mutual, table.argmax(0)[table.argmax(1)] == torch.arange(len(table)))
    cells = torch.cartesian_prod(torch.arange(shape[2]), torch.arange(shape[3])).view(-1, 2)
    far = (cells[None] - cells[found.index][:, None]).abs().amax(2) > correspondence.NEAR
    assert torch.allclose(found.runner_up, table.masked_fill(~far, -1).amax(1))
    assert ((found.places - cells[found.index]).abs() <= 1).all()


def test_neighbours_are_found_in_strips_without_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    starts = torch.rand(300, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 100
    whole = agree_locally(starts, starts * 1.1, 1.0)
    monkeypatch.setattr(local_affine, "_STRIP", 7)
    assert torch.equal(agree_locally(starts, starts * 1.1, 1.0), whole)


def test_large_grids_are_compared_in_strips_without_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = grid(9, 7, 0), grid(8, 11, 1)
    whole = correspondence.find_nearest(first, second)
    monkeypatch.setattr(correspondence, "_STRIP", 5)
    parts = correspondence.find_nearest(first, second)
    for name in ("index", "places", "similarity", "runner_up", "mutual"):
        torch.testing.assert_close(getattr(whole, name), getattr(parts, name))


def test_places_lie_between_cells_where_similarities_do() -> None:
    bump = torch.exp(-((torch.arange(9.0) - 4.4) ** 2) / 18)
    index, places = correspondence.soft_argmax((bump[:, None] * bump.flip(0))[None])
    assert index.item() == 4 * 9 + 4
    assert 4 < places[0, 0] < 5
    assert 3 < places[0, 1] < 4


def test_features_between_cells_are_mixed() -> None:
    cells = grid(4, 5, 3)
    mixed = correspondence.sample(cells, torch.tensor([[1.0, 2.0], [1.0, 2.5], [-3.0, 99.0]]))
    assert torch.allclose(mixed[0], cells[1, 2])
    assert torch.allclose(mixed[1], normalize(cells[1, 2] + cells[1, 3], dim=-1))
    assert torch.allclose(mixed[2], cells[0, 4])


def test_one_match_among_neighbours_that_move_otherwise_is_found() -> None:
    starts = torch.cartesian_prod(torch.arange(8.0), torch.arange(8.0)).double() * 10
    turn = torch.tensor([[0.8, -0.6], [0.6, 0.8]], dtype=torch.float64)
    ends = starts @ turn.T + 30
    ends[27] += 25
    agreeing = agree_locally(starts, ends, limit=3)
    assert agreeing.tolist() == [i != 27 for i in range(64)]
    points = starts[:5] + 4
    torch.testing.assert_close(local_shapes(points, starts, ends), turn.expand(5, 2, 2), atol=0.03, rtol=0)
    torch.testing.assert_close(expect(points, starts, ends, 3), points @ turn.T + 30, atol=0.5, rtol=0)
    assert expect(points, starts, ends.flip(0)[torch.randperm(64)], 3).isnan().all()


def test_a_homography_is_found_among_wrong_matches() -> None:
    generator = np.random.default_rng(0)
    starts = generator.uniform(0, 400, (200, 2))
    ends = homography.transform(TILT, starts)
    ends[:100] = generator.uniform(0, 400, (100, 2))
    found, inliers = homography.estimate(starts, ends, 1.0)
    assert homography.corner_error(found, TILT, (400, 400)) < 1e-6
    assert inliers[100:].all()
    assert inliers[:100].sum() < 3


@pytest.mark.parametrize("count", [0, 3])
def test_too_few_matches_have_no_homography(count: int) -> None:
    with pytest.raises(UserError, match=f"{count} matches are too few for a homography: it takes 4"):
        homography.estimate(np.zeros((count, 2)), np.zeros((count, 2)), 1.0)


def test_matches_on_a_line_have_no_homography() -> None:
    starts = np.stack([np.arange(30.0) * 7, np.arange(30.0) * 3 + 5], axis=1)
    with pytest.raises(UserError, match="no homography explains the 30 matches"):
        homography.estimate(starts, starts + 8, 1.0)


def test_a_turned_view_shows_the_whole_picture() -> None:
    matrix, size = homography.turned((40, 60), 90)
    assert size == (60, 40)
    corners = homography.transform(matrix, np.array([[0, 0], [40, 0], [40, 60], [0, 60]]))
    assert sorted(map(tuple, corners.round(6).tolist())) == [(0, 0), (0, 40), (60, 0), (60, 40)]
