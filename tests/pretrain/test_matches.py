"""The same place in both crops: checked on tokens that say where in the picture they lie."""

import pytest
import torch
from torch import Tensor

from dinokit.pretrain.crops import draw_boxes
from dinokit.pretrain.matches import match_patches


def picture_places(boxes: Tensor, flips: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens [2B, N, 2]: (x, y) of each patch's centre in the picture."""
    (rows, columns), (left, top, right, bottom) = grid, boxes.flatten(0, 1).unbind(-1)
    x = (torch.arange(columns) + 0.5) / columns
    y = (torch.arange(rows) + 0.5) / rows
    x = torch.where(flips.flatten()[:, None], 1 - x, x) * (right - left)[:, None] + left[:, None]
    y = y * (bottom - top)[:, None] + top[:, None]
    places = torch.stack((x[:, None, :].expand(-1, rows, -1), y[:, :, None].expand(-1, -1, columns)), -1)
    return places.flatten(1, 2)


@pytest.mark.parametrize("grid", [(6, 6), (2, 5), (14, 14)])
def test_matched_patches_show_the_same_place(grid: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(3)
    boxes = draw_boxes(torch.rand(40, generator=generator) + 0.5, 2, (0.32, 1.0), generator)
    flips = torch.rand(2, 40, generator=generator) < 0.5
    matches = match_patches(boxes, flips, grid)
    tokens = picture_places(boxes, flips, grid)
    torch.testing.assert_close(matches.other(tokens), matches.own(tokens), atol=1e-5, rtol=0)
    crop, other = matches.rows // (grid[0] * grid[1]), matches.corners // (grid[0] * grid[1])
    assert torch.equal(other, ((crop + 40) % 80)[:, None].expand(-1, 4))


def test_patches_that_the_other_crop_does_not_show_are_left_out() -> None:
    halves = torch.tensor([[[0.0, 0.0, 0.5, 1.0]], [[0.5, 0.0, 1.0, 1.0]]])
    upright = torch.zeros(2, 1, dtype=torch.bool)
    assert len(match_patches(halves, upright, (4, 4)).rows) == 0
    same = halves[:1].expand(2, 1, 4)
    mirrored = torch.tensor([[False], [True]])
    matches = match_patches(same, mirrored, (4, 4))
    tokens = torch.arange(32.0).view(2, 16, 1)
    own, other = matches.own(tokens)[:, 0].long(), matches.other(tokens)[:, 0].long()
    assert torch.equal(own // 4 % 4, other // 4 % 4)
    assert torch.equal(own % 4, 3 - other % 4)


def test_there_are_always_as_many_matches() -> None:
    counts = set()
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        boxes = draw_boxes(torch.rand(12, generator=generator) + 0.5, 2, (0.05, 1.0), generator)
        counts.add(len(match_patches(boxes, torch.zeros(2, 12, dtype=torch.bool), (4, 4)).rows))
    assert counts == {2 * 12 * 16 // 4}
