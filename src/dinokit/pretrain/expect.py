"""How good a run of the small network becomes, read off the bundled model's own curve."""

from __future__ import annotations

import math
from itertools import pairwise

from dinokit.pretrain.recipe import Recipe

CURVE: tuple[tuple[int, float], ...] = (
    (7_700, 29.8), (15_000, 33.5), (23_000, 35.9), (31_000, 37.0), (46_000, 39.2), (61_000, 41.1), (83_000, 43.1),
    (128_000, 44.7), (193_000, 48.8), (251_000, 50.2), (306_000, 53.0),
    (439_000, 57.1), (580_000, 63.8), (1_071_000, 68.0),
)  # fmt: skip
"""Pictures seen -> kNN top-1 in per cent on Imagenette's held-out labels: experiments/learning-speed up to 83,000, then
experiments/bundled."""
TEST = "kNN accuracy on the ten classes of Imagenette (random weights: 28 %)"


def expected_knn(recipe: Recipe) -> str:
    """A sentence with the expected kNN accuracy, interpolated over the logarithm of the pictures seen."""
    if recipe.network != "dinokit_vitt16" or recipe.objective != "coding-rate":
        return "no measured run of this network and objective to compare with"
    seen = recipe.run.steps * recipe.run.batch
    if seen < CURVE[0][0]:
        return f"on ordinary photographs expect less than {CURVE[0][1]:.0f} % {TEST}"
    if seen >= CURVE[-1][0]:
        return f"on ordinary photographs expect {CURVE[-1][1]:.0f} % or more {TEST}"
    (x0, y0), (x1, y1) = next(pair for pair in pairwise(CURVE) if seen < pair[1][0])
    share = math.log(seen / x0) / math.log(x1 / x0)
    return f"on ordinary photographs expect about {y0 + share * (y1 - y0):.0f} % {TEST}"
