"""Squares of pixels are found again to a fraction of a pixel, on a photo; what has no texture is left where it was."""

import numpy as np
import torch
from helpers_pictures import PHOTOS

from dinokit.images.local_search import search_locally, shrink
from dinokit.images.read import read
from dinokit.images.warp import warp

PHOTO = read(PHOTOS[0])


def places(height: int, width: int, shift: tuple[float, float] = (0, 0), scale: float = 1.0) -> np.ndarray:
    grid = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), axis=-1)
    return grid * scale + shift


def test_looking_at_every_pixel_gives_the_picture_and_beyond_it_nothing() -> None:
    height, width = PHOTO.shape[:2]
    seen, inside = warp(PHOTO, places(height, width))
    assert np.abs(seen.astype(int) - PHOTO).max() <= 1
    assert inside.all()
    seen, inside = warp(PHOTO, places(height, width, (width / 2, 0)))
    assert inside.mean() == 0.5
    assert (seen[:, -1] == seen[0, -1]).all()
    assert not warp(PHOTO, np.full((4, 4, 2), np.nan))[1].any()


def test_a_shift_by_parts_of_a_pixel_is_found() -> None:
    height, width = PHOTO.shape[:2]
    moved, _ = warp(PHOTO, places(height, width, (-3.3, 4.6)))
    x, y = np.meshgrid(np.arange(40, width - 40, 12.0), np.arange(40, height - 40, 12.0))
    starts = torch.from_numpy(np.stack([x.ravel(), y.ravel()], axis=1))
    identity = torch.eye(2).double().expand(len(starts), 2, 2)
    darker = (moved * 0.5 + 20).astype(np.uint8)
    found, alike = search_locally(PHOTO, darker, starts, starts, identity)
    errors = (found - starts - torch.tensor([3.3, -4.6])).norm(dim=1)[alike > 0.9]
    assert len(errors) > 0.5 * len(starts)
    assert errors.median() < 0.15


def test_what_is_flat_or_too_far_stays() -> None:
    flat = np.full((80, 90, 3), 7, dtype=np.uint8)
    start = torch.tensor([[40.0, 40.0]], dtype=torch.float64)
    found, alike = search_locally(flat, flat, start, start + 2, torch.eye(2).double()[None])
    assert torch.equal(found, start + 2)
    assert alike.item() == 0


def test_smaller_pictures_keep_their_mean() -> None:
    small = shrink(PHOTO, 3.0)
    assert abs(small.shape[0] - PHOTO.shape[0] / 3) <= 0.5
    assert abs(small.mean() - PHOTO.mean()) < 1
    assert shrink(PHOTO, 1.0) is PHOTO
