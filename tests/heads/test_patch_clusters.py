"""Kinds of patches, and colours, whose answer is known beforehand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinokit.errors import UserError
from dinokit.heads.colours import PatchColours, pca_colours, shared_pca_colours
from dinokit.heads.patch_clusters import PatchClusters
from dinokit.heads.patches import Floats, without_mean, without_trend


def random_patches(h: int, w: int, depth: int = 24, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(size=(h, w, depth)).astype(np.float32)


def disc_on_ground(h: int = 20, w: int = 24, depth: int = 32) -> tuple[Floats, np.ndarray]:
    """One thing in the middle of a uniform ground, both with a little noise."""
    ys, xs = np.mgrid[:h, :w]
    inside = (ys - h / 2) ** 2 + (xs - w / 2) ** 2 < (h / 4) ** 2
    thing, ground = np.random.default_rng(1).normal(size=(2, depth))
    patches = np.where(inside[..., None], thing, ground) + 0.1 * random_patches(h, w, depth)
    return patches.astype(np.float32), inside


def test_kinds_are_numbered_by_how_frequent_they_are() -> None:
    patches, inside = disc_on_ground()
    kinds = PatchClusters.fit([patches, 3 * patches[::-1]], 2)  # lengths do not matter
    np.testing.assert_array_equal(kinds.distances(patches).argmin(axis=-1), inside)
    assert kinds.distances(patches).shape == (20, 24, 2)


def test_kinds_that_there_are_not_are_left_out() -> None:
    patches = np.zeros((4, 4, 3), np.float32)
    patches[:2, :, 0] = patches[2:, :, 1] = 1
    assert len(PatchClusters.fit([patches], 5).centres) == 2
    with pytest.raises(UserError, match="17 segments of 16 patches"):
        PatchClusters.fit([patches], 17)


@given(h=st.integers(1, 6), w=st.integers(1, 6), depth=st.integers(1, 8))
def test_every_grid_has_colours(h: int, w: int, depth: int) -> None:
    colours = pca_colours(random_patches(h, w, depth))
    assert colours.shape == (h, w, 3)
    assert colours.dtype == np.uint8


def test_uniform_features_have_a_colour() -> None:
    assert pca_colours(np.ones((4, 5, 8), dtype=np.float32)).shape == (4, 5, 3)


def test_the_same_thing_has_the_same_colour() -> None:
    patches, inside = disc_on_ground()
    red = pca_colours(patches)[..., 0].astype(int)
    assert abs(red[inside].mean() - red[~inside].mean()) > 150
    assert red[inside].std() < 60


def test_shared_colours_mean_the_same_in_every_photo() -> None:
    patches, _ = disc_on_ground()
    first, second = shared_pca_colours([patches, patches[::-1].copy()])
    np.testing.assert_array_equal(first, second[::-1])


def test_colours_apply_to_pictures_that_they_were_not_learnt_from() -> None:
    patches, inside = disc_on_ground()
    colours = PatchColours.fit([patches])
    shown = colours.of(patches[5:15, 6:18])
    np.testing.assert_array_equal(shown, colours.of(patches)[5:15, 6:18])
    assert inside[5:15, 6:18].any()


def test_patches_without_their_mean_have_no_common_direction() -> None:
    shared = 5 + random_patches(6, 7, seed=4)
    first, second = without_mean([shared, 5 + random_patches(5, 4, seed=5)])
    assert abs(float((first[0, 0] * second[-1, -1]).sum())) < 0.7
    np.testing.assert_allclose(np.linalg.norm(first, axis=-1), 1, atol=1e-5)


@pytest.mark.parametrize(("h", "w"), [(1, 1), (1, 30), (12, 14)])
def test_an_even_change_over_the_picture_is_taken_out(h: int, w: int) -> None:
    patches, axes = random_patches(h, w, depth=4), np.mgrid[:h, :w].astype(np.float32)
    tilted = patches + (0.5 * axes[0, ..., None] - 0.7 * axes[1, ..., None]) / max(h, w)
    found, plain = without_trend(tilted), without_trend(patches)
    np.testing.assert_allclose(found - found.mean((0, 1)), plain - plain.mean((0, 1)), atol=1e-4)
    np.testing.assert_allclose(found.mean((0, 1)), tilted.mean((0, 1)), atol=1e-4)


def test_what_fills_one_side_stays() -> None:
    patches = 0.1 * random_patches(12, 14)
    patches[7:] += 1
    np.testing.assert_allclose(without_trend(patches), patches, atol=1e-6)
