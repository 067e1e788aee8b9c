"""How good a ranking is: mean average precision as in the revisited Oxford and Paris protocol.

Pictures that are neither right nor wrong (junk) are taken out of the ranking, queries without a right answer are left
out, and the area under the precision curve is summed by trapezoids (Radenović et al. 2018, "Revisiting Oxford and
Paris").
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class RetrievalScores:
    """Of many queries; shares between 0 and 1."""

    mean_average_precision: float
    average_precision: NDArray[np.float64]
    """[Q], not a number for queries without a right answer."""


def score_rankings(
    rankings: Sequence[Sequence[int]],
    right: Sequence[Collection[int]],
    junk: Sequence[Collection[int]] = (),
) -> RetrievalScores:
    """Scores of the ranking of each query, best first, given which pictures are right and which do not count."""
    precisions = np.full(len(rankings), np.nan)
    for query, ranking in enumerate(rankings):
        left_out = set(junk[query]) if junk else set()
        answers = [place for place in ranking if place not in left_out]
        good = set(right[query])
        found = np.flatnonzero([place in good for place in answers])
        if good:
            precisions[query] = average_precision(found, len(good))
    counted = ~np.isnan(precisions)
    mean = float(precisions[counted].mean()) if counted.any() else float("nan")
    return RetrievalScores(mean, precisions)


def average_precision(found: NDArray[np.int64], total: int) -> float:
    """The area under the precision curve: right answers at the places `found`, from 0, in order, of `total`."""
    before = np.arange(len(found))
    left = np.where(found == 0, 1.0, before / np.maximum(found, 1))
    return float(((left + (before + 1) / (found + 1)) / 2).sum() / total)
