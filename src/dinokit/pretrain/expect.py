"""How good a run of the small network becomes, read off the bundled model's own curve."""

from __future__ import annotations

import math

CURVE: tuple[tuple[int, float], ...] = ()
"""Pictures seen -> kNN top-1 in per cent on held-out Imagenette, from experiments/bundled."""


def expected_knn(pictures_seen: int) -> str:
    """A sentence with the expected kNN accuracy, interpolated over the logarithm of the pictures seen."""
    if not CURVE:
        return "no measured run to compare with"
    below = [point for point in CURVE if point[0] <= pictures_seen]
    above = [point for point in CURVE if point[0] > pictures_seen]
    if not below:
        return f"expect less than {CURVE[0][1]:.0f} % kNN on ten classes of ordinary photographs (random weights: 28)"
    if not above:
        return f"expect {CURVE[-1][1]:.0f} % kNN or more on ten classes of ordinary photographs (random weights: 28)"
    (x0, y0), (x1, y1) = below[-1], above[0]
    share = math.log(pictures_seen / x0) / math.log(x1 / x0)
    return (
        f"expect about {y0 + share * (y1 - y0):.0f} % kNN on ten classes of ordinary photographs (random weights: 28)"
    )
