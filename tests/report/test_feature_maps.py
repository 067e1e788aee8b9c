"""Maps of features whose answer is known beforehand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinokit.heads.patches import Floats, unit_length
from dinokit.report import feature_maps


def random_patches(h: int, w: int, depth: int = 24, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(size=(h, w, depth)).astype(np.float32)


def disc_on_ground(h: int = 20, w: int = 24, depth: int = 32) -> tuple[Floats, np.ndarray]:
    """One thing in the middle of a uniform ground, both with a little noise."""
    ys, xs = np.mgrid[:h, :w]
    inside = (ys - h / 2) ** 2 + (xs - w / 2) ** 2 < (h / 4) ** 2
    thing, ground = np.random.default_rng(1).normal(size=(2, depth))
    patches = np.where(inside[..., None], thing, ground) + 0.1 * random_patches(h, w, depth)
    return patches.astype(np.float32), inside


@given(h=st.integers(1, 6), w=st.integers(1, 6), depth=st.integers(1, 8))
def test_every_grid_has_a_foreground(h: int, w: int, depth: int) -> None:
    patches = random_patches(h, w, depth)
    front = feature_maps.foreground(patches)
    assert front.shape == (h, w)
    assert front.dtype == np.float32
    assert front.min() >= 0
    assert front.max() <= 1


def test_uniform_features_give_a_foreground_without_nan() -> None:
    patches = np.ones((4, 5, 8), dtype=np.float32)
    assert np.isfinite(feature_maps.foreground(patches)).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_the_foreground_is_the_thing_and_not_the_border(sign: int) -> None:
    patches, inside = disc_on_ground()
    front = feature_maps.foreground((sign * patches).astype(np.float32))
    assert front[inside].mean() > 0.9
    assert front[~inside].mean() < 0.1


def test_what_changes_evenly_over_the_photo_is_no_foreground() -> None:
    patches, inside = disc_on_ground()
    slope = np.linspace(-0.6, 0.6, 20)[:, None, None] * np.random.default_rng(3).normal(size=32)
    front = feature_maps.foreground((patches + slope).astype(np.float32))
    assert front[inside].mean() > 0.9
    assert front[~inside].mean() < 0.1


@pytest.mark.parametrize("side", [np.s_[8:], np.s_[12:], np.s_[:, :8]])
def test_a_thing_may_fill_one_side_of_the_photo(side: tuple[slice, ...]) -> None:
    inside = np.zeros((20, 24), dtype=bool)
    inside[side] = True
    thing, ground = np.random.default_rng(1).normal(size=(2, 32))
    patches = np.where(inside[..., None], thing, ground) + 0.1 * random_patches(20, 24, 32)
    front = feature_maps.foreground(patches.astype(np.float32))
    assert abs(front[inside].mean() - front[~inside].mean()) > 0.9


def test_a_bird_at_the_edge_stands_before_the_sky_of_the_other_three() -> None:
    """Less clearly than if the trend stayed (0.06 on the sky): it takes a part of what fills the lower side with it."""
    sky, parts = np.ones(32, np.float32), random_patches(20, 24, 32, seed=2)
    inside = np.zeros((20, 24), dtype=bool)
    inside[8:] = True
    inside[:, 2:6] = True
    ground = sky + 0.1 * random_patches(20, 24, 32)
    front = feature_maps.foreground(np.where(inside[..., None], parts - 1, ground).astype(np.float32))
    assert front[inside].mean() > 0.8
    assert front[~inside].mean() < 0.3


def test_a_uniform_border_is_background_even_where_the_thing_touches_it_more() -> None:
    """Wings and body reach all four edges, the sky is left in the corners."""
    sky, parts = np.ones(32, np.float32), random_patches(20, 24, 32, seed=2)
    inside = np.zeros((20, 24), dtype=bool)
    inside[6:14] = True
    inside[:, 4:20] = True
    ground = sky + 0.1 * random_patches(20, 24, 32)
    front = feature_maps.foreground(np.where(inside[..., None], parts - 1, ground).astype(np.float32))
    assert front[inside].mean() > 0.8
    assert front[~inside].mean() < 0.2


@pytest.mark.parametrize("depth", [8, 64])
def test_packed_features_keep_the_cosines(depth: int) -> None:
    patches = [random_patches(6, 7, depth), random_patches(5, 4, depth, seed=3)]
    packed = feature_maps.pack_patches(patches, directions=64)
    assert [codes.shape for codes in packed.codes] == [(6, 7, depth), (5, 4, depth)]
    assert packed.kept == pytest.approx(1.0)
    restored = packed.codes[0].reshape(42, -1) * packed.scales
    exact = unit_length(patches[0]).reshape(42, -1)
    np.testing.assert_allclose(restored @ restored.T, exact @ exact.T, atol=0.02)
    assert packed.mean_error < 0.005


def test_fewer_directions_say_what_they_lose() -> None:
    packed = feature_maps.pack_patches([random_patches(10, 10, 64)], directions=16)
    assert packed.codes[0].shape == (10, 10, 16)
    assert 0.2 < packed.kept < 0.9
    assert packed.mean_error > 0.01


def test_matches_follow_a_shifted_view() -> None:
    scene = random_patches(12, 20)
    matches = feature_maps.mutual_matches(scene[:, :16], scene[2:, 4:])
    assert len(matches.cosine) >= 10 * 12
    exact = matches.cosine > 0.999
    np.testing.assert_array_equal(matches.first[exact] - matches.second[exact], np.tile([2, 4], (exact.sum(), 1)))
    assert exact.sum() == 10 * 12


def test_the_first_matches_are_spread_over_the_view() -> None:
    scene = random_patches(24, 24)
    first = feature_maps.mutual_matches(scene, scene).first[:9]
    assert len(first) == 9
    distances = np.abs(first[:, None] - first[None]).max(axis=-1) + 99 * np.eye(9)
    assert distances.min() >= 5


def test_nearest_photos_are_others_in_order() -> None:
    cls = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]], dtype=np.float32)
    indices, cosines = feature_maps.nearest_photos(cls, 2)
    assert indices[:, 0].tolist() == [1, 0, 3, 2]
    assert (np.diff(cosines, axis=1) <= 0).all()
    assert feature_maps.nearest_photos(cls[:1], 3)[0].shape == (1, 0)


def test_what_all_photos_share_does_not_make_them_alike() -> None:
    cls = 10 + np.repeat(np.eye(4, 12, dtype=np.float32), 2, axis=0)
    indices, cosines = feature_maps.nearest_photos(cls, 2)
    assert indices[:, 0].tolist() == [1, 0, 3, 2, 5, 4, 7, 6]
    assert cosines[:, 0].min() > 0.99
    assert cosines[:, 1].max() < 0
