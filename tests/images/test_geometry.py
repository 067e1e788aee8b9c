"""Sizes on the patch grid, and a resize that agrees with Pillow."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dinokit.errors import UserError
from dinokit.images.geometry import MAX_PATCHES, Size, fit_to_grid, resize, to_grid, to_tensor
from dinokit.images.read import ReadError, read

PHOTOS = sorted((Path(__file__).parent.parent / "pictures").glob("*.jpg"))
SIDES = st.integers(1, 4096)
PATCHES = st.sampled_from([8, 14, 16, 32])


def nearest(value: float, wanted: float, patch: int) -> bool:
    return value >= patch and value % patch == 0 and (abs(value - wanted) <= patch / 2 + 1e-6 or value == patch)


@given(SIDES, SIDES, st.integers(1, 64), PATCHES)
def test_a_short_side_keeps_the_aspect_to_half_a_patch(height: int, width: int, size: int, patch: int) -> None:
    scale = size / min(height, width)
    h, w = fit_to_grid(height, width, size, patch)
    assert nearest(h, height * scale, patch)
    assert nearest(w, width * scale, patch)
    assert fit_to_grid(width, height, size, patch) == (w, h)


@given(SIDES, SIDES, st.integers(1, 4096), st.integers(1, 4096), PATCHES)
def test_both_sides_and_native(height: int, width: int, h: int, w: int, patch: int) -> None:
    rows, columns = fit_to_grid(height, width, (h, w), patch)
    assert nearest(rows, h, patch)
    assert nearest(columns, w, patch)
    assert fit_to_grid(height, width, "native", patch) == fit_to_grid(1, 1, (height, width), patch)


def test_sizes_that_fit_stay() -> None:
    assert fit_to_grid(480, 640, "native", 16) == (480, 640)
    assert fit_to_grid(480, 640, 224, 16) == (224, 304)
    assert fit_to_grid(3, 4000, "native", 16) == (16, 4000)


@pytest.mark.parametrize(("height", "width", "size"), [(1, 2000, 448), (20_000, 20_000, "native"), (9, 9, 10**6)])
def test_a_picture_of_too_many_patches_is_named(height: int, width: int, size: Size) -> None:
    assert fit_to_grid(8192, 8192, "native", 16) == (8192, 8192)
    assert MAX_PATCHES == (8192 // 16) ** 2
    with pytest.raises(ReadError, match=rf"^strip\.png has too many patches at size {size}"):
        fit_to_grid(height, width, size, 2, "strip.png")


@pytest.mark.parametrize("size", [10**400, 0, -5, True, 2.5, "large", (0, 16), (16,), (16, 16, 16), None, (True, 3)])
def test_a_size_that_is_none_is_named(size: object) -> None:
    with pytest.raises(UserError, match=r"^size is"):
        fit_to_grid(100, 100, size, 16)


@pytest.mark.parametrize("target", [(144, 144), (64, 96), (320, 288), (17, 400)])
def test_resizing_agrees_with_pillow_within_one(target: tuple[int, int]) -> None:
    for path in PHOTOS:
        picture = read(path)
        height, width = target
        rows_first = Image.fromarray(picture).resize((width, picture.shape[0]), Image.Resampling.BICUBIC)
        expected = np.asarray(rows_first.resize((width, height), Image.Resampling.BICUBIC))
        ours = resize(to_tensor(picture), target)[0].permute(1, 2, 0).numpy()
        difference = np.abs(ours.astype(int) - expected.astype(int))
        assert difference.mean() < 0.01
        assert (difference > 1).sum() <= difference.size * 2e-5  # a value or two differ by 2
        assert difference.max() <= 2


def test_to_grid_gives_whole_patches_and_leaves_read_only_arrays_alone() -> None:
    picture = read(PHOTOS[0])
    picture.flags.writeable = False
    grid = to_grid(picture, 100, 16)
    assert grid.dtype == torch.uint8
    assert grid.shape == (3, 96, 144)
    assert grid.is_contiguous()
    native = to_grid(np.zeros((32, 48, 3), np.uint8), "native", 16)
    assert native.shape == (3, 32, 48)
