"""Sizes on the patch grid, and a resize that agrees with Pillow."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dinokit.errors import UserError
from dinokit.images.geometry import MAX_PATCHES, Size, fit_to_grid, lay_out, place, resize, to_grid, to_tensor
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


SIZES = st.one_of(st.integers(16, 600), st.tuples(st.integers(16, 600), st.integers(16, 600)), st.just("native"))


@given(st.integers(1, 1200), st.integers(1, 1200), SIZES, st.sampled_from([8, 14, 16, 32]))
def test_padding_keeps_the_aspect_to_half_a_pixel(height: int, width: int, size: Size, patch: int) -> None:
    try:
        layout = lay_out(height, width, size, patch, "pad")
    except ReadError:
        assert max(height, width) > 50 * min(height, width)
        return
    rows, cols = layout.content
    assert all(side % patch == 0 for side in layout.canvas)
    assert rows <= layout.canvas[0]
    assert cols <= layout.canvas[1]
    if size == "native":
        assert layout.content == (height, width)
    if isinstance(size, tuple):
        assert rows <= size[0]
        assert cols <= size[1]
        assert layout.canvas == fit_up(size, patch)
        scale = min(size[0] / height, size[1] / width)
    else:
        assert layout.canvas == fit_up(layout.content, patch)
        scale = 1 if size == "native" else size / min(height, width)
    assert abs(rows - height * scale) <= 0.5 + 1e-9 or rows == 1
    assert abs(cols - width * scale) <= 0.5 + 1e-9 or cols == 1
    span = layout.span(height, width)
    assert span[0] >= height * (1 - 1e-12)
    assert span[1] >= width * (1 - 1e-12)


def fit_up(sides: tuple[int, int], patch: int) -> tuple[int, int]:
    return -(-sides[0] // patch) * patch, -(-sides[1] // patch) * patch


def test_padding_is_filled_and_the_picture_lies_at_the_top_left() -> None:
    picture = read(PHOTOS[0])[:100, :150]
    layout = lay_out(100, 150, 50, 16, "pad")
    assert (layout.content, layout.canvas) == ((50, 75), (64, 80))
    view = place(picture, layout, (1, 2, 3))
    expected = resize(to_tensor(picture), (50, 75))[0]
    assert view.dtype == torch.uint8
    torch.testing.assert_close(view[:, :50, :75], expected)
    for channel in range(3):
        assert (view[channel, 50:] == channel + 1).all()
        assert (view[channel, :, 75:] == channel + 1).all()


def test_a_fit_that_is_none_is_named() -> None:
    with pytest.raises(UserError, match=r"^fit is 'crop'"):
        lay_out(100, 100, 64, 16, "crop")
