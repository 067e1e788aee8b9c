"""From cells to pixels, all at once or in bands."""

import pytest
import torch
from torch.nn.functional import interpolate

from dinokit.images import cells
from dinokit.images.cells import PixelMap, shares

VALUES = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("height", "width"), [(50, 71), (4, 6), (3, 5)])
def test_pixels_are_those_of_bilinear_interpolation(height: int, width: int) -> None:
    found = PixelMap(VALUES, (height, width), height, width).whole()
    expected = interpolate(VALUES[None], (height, width), mode="bilinear", align_corners=False)[0]
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("pixels", "count"), [(50, 4), (7, 4), (4, 4)])
def test_rough_shares_are_those_of_nearest_interpolation(pixels: int, count: int) -> None:
    places = torch.arange(count, dtype=torch.float32)
    expected = interpolate(places[None, None], pixels, mode="nearest")[0, 0]
    assert torch.equal(shares(pixels, count, pixels, smooth=False) @ places, expected)


def test_a_view_larger_than_its_picture_is_cut() -> None:
    found = PixelMap(VALUES, (64, 96), 50, 90).whole()
    assert torch.allclose(found, PixelMap(VALUES, (64, 96), 64, 96).whole()[:, :50, :90], atol=1e-6)


def test_bands_are_the_whole_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = PixelMap(VALUES, (50, 71), 50, 71)
    whole, most = pixels.whole(), pixels.most()
    monkeypatch.setattr(cells, "_BAND_VALUES", 7 * 71 * 3)
    bands = list(pixels.bands())
    assert [rows.stop - rows.start for rows, _ in bands] == [7] * 7 + [1]
    assert torch.allclose(torch.cat([values for _, values in bands], dim=1), whole, atol=1e-6)
    assert torch.equal(pixels.most(), most)
    assert torch.equal(most, whole.argmax(0).to(torch.uint8))


def test_the_mirror_image_of_a_mirror_image() -> None:
    mirrored = PixelMap(VALUES.flip(-1), (50, 71), 50, 71).mirrored()
    assert torch.equal(mirrored.whole(), PixelMap(VALUES, (50, 71), 50, 71).whole())
