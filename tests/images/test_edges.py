"""Maps on a grid become maps of pixels where the grid says."""

import numpy as np
import pytest

from dinokit.backbones.features import Grid
from dinokit.images.edges import refine, to_pixels


def test_a_slope_stays_a_slope_and_ends_with_the_outermost_cells() -> None:
    grid = Grid(2, 4, ((20, 80),))
    slope = np.broadcast_to(np.arange(4, dtype=np.float32), (2, 4))
    pixels = to_pixels(slope, grid)
    assert pixels.shape == (20, 80)
    expected = np.clip((np.arange(80) + 0.5) / 20 - 0.5, 0, 3)
    np.testing.assert_allclose(pixels, np.broadcast_to(expected, (20, 80)), atol=1e-5)


def test_padding_lies_outside_the_picture() -> None:
    grid = Grid(2, 2, ((10, 10),), ((20.0, 20.0),))
    pixels = to_pixels(np.array([[1, 5], [5, 5]], np.float32), grid)
    assert pixels[0, 0] == 1
    assert pixels[4, 4] == 1
    assert pixels[9, 9] < 5


def test_the_edge_moves_to_where_the_picture_has_it() -> None:
    pytest.importorskip("cv2")
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:, 36:] = 200
    grid = Grid(4, 4, ((64, 64),))
    rough = to_pixels(np.array([[0, 0, 1, 1]] * 4, np.float32), grid)  # its edge is at 32
    refined = refine(rough, picture, grid) > 0.5
    np.testing.assert_array_equal(refined, picture[..., 0] > 0)
