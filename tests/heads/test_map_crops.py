"""Pieces of pictures show the same place in features and values, and pieces of holes do no harm."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dinokit.backbones.features import Features, Grid
from dinokit.heads.depth_plan import DepthPlan
from dinokit.heads.map_crops import draw_crops
from dinokit.tasks.depth import crop_loss


def place_features(rows: int, cols: int, height: int, width: int) -> tuple[Features, ...]:
    """Cells that say where their centre lies in the picture: (y, x) in pixels."""
    ys, xs = ((torch.arange(n) + 0.5) * side / n for n, side in ((rows, height), (cols, width)))
    patches = torch.stack(torch.meshgrid(ys, xs, indexing="ij"), dim=-1)[None]
    return (Features(torch.zeros(1, 2), torch.zeros(1, 0, 2), patches, Grid(rows, cols, ((height, width),))),)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 6), st.integers(1, 6), st.integers(6, 90), st.integers(6, 90), st.integers(1, 5), st.integers(0, 99)
)
def test_values_lie_where_the_cells_lie(rows: int, cols: int, height: int, width: int, cells: int, seed: int) -> None:
    down = np.arange(height, dtype=np.float32)[:, None].repeat(width, axis=1) + 1
    across = np.arange(width, dtype=np.float32)[None].repeat(height, axis=0) + 1
    seen = place_features(rows, cols, height, width)
    for axis, values in enumerate((down, across)):
        batch = draw_crops([seen], [values], cells, 4, torch.Generator().manual_seed(seed))
        patches = batch.maps[0][0][0, axis]
        assert patches.shape == (min(cells, rows), min(cells, cols))
        means = (
            batch.targets[0].unfold(0, 4, 4).unfold(1, 4, 4).mean(dim=(2, 3)) - 0.5
        )  # pixel n has its centre at n + .5
        assert (means - patches).abs().max() <= 0.51  # to the nearest pixel


def test_pictures_of_other_sizes_give_pieces_of_one() -> None:
    features = [place_features(3, 8, 30, 80), place_features(6, 5, 60, 50)]
    values = [np.ones((30, 80), np.float32), np.zeros((60, 50), np.float32)]
    batch = draw_crops(features, values, 4, 16, torch.Generator().manual_seed(0))
    assert batch.maps[0][0].shape == (2, 2, 3, 4)
    assert batch.targets.shape == (2, 48, 64)
    assert (batch.targets[0] == 1).all()
    assert not batch.targets[1].any()


def test_pieces_without_known_depth_change_nothing() -> None:
    head = DepthPlan("dpt").build([2] * 4)
    features = place_features(4, 4, 64, 64) * 4
    batch = draw_crops([features], [np.zeros((64, 64), np.float32)], 4, 16, torch.Generator().manual_seed(0))
    loss = crop_loss(head, batch)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss == 0
    assert all(weight.grad is None or not weight.grad.any() for weight in head.parameters())
