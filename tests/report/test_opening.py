"""The page opens where its similarities show most."""

import numpy as np

from dinokit.heads.patches import Floats, unit_length
from dinokit.report.opening import choose_opening, innermost


def scene(thing: Floats, ground: Floats, inside: np.ndarray, seed: int) -> Floats:
    noise = 0.3 * np.random.default_rng(seed).normal(size=(*inside.shape, len(thing)))
    return unit_length((np.where(inside[..., None], thing, ground) + noise).astype(np.float32))


def test_the_innermost_cell_is_the_middle_of_the_largest_foreground() -> None:
    front = np.zeros((20, 30), dtype=np.float32)
    front[2:4, 2:4] = 1
    front[8:17, 10:19] = 1
    assert innermost(front) == (12, 14)


def test_it_opens_where_a_thing_stands_out_and_not_where_all_is_alike() -> None:
    inside = np.zeros((12, 16), dtype=bool)
    inside[4:8, 5:11] = True
    thing, ground = np.eye(2, 24, dtype=np.float32)
    photos = [scene(ground, ground, inside, 0), scene(thing, ground, inside, 1), scene(ground, ground, inside, 2)]
    fronts = [inside.astype(np.float32)] * 3
    assert choose_opening(photos, fronts, [(6, 8)] * 3) == 1
