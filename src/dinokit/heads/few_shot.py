"""How good a classifier becomes from a few pictures of each class, over repeated draws (mean and deviation).

Draw t has seed t, as in the published code. The strength of a regression is chosen on the first draw of each count,
within its own pictures; one picture a class gives no choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from dinokit.data.track import Track
from dinokit.errors import UserError
from dinokit.heads.classification_scores import main_score
from dinokit.heads.classifiers import ClassifierHead, NeighbourClassifier
from dinokit.heads.examples import Examples
from dinokit.heads.probe import NEIGHBOURS
from dinokit.heads.regression import REGRESSIONS, Kind, choose_strength


@dataclass(frozen=True)
class FewShot:
    """Top-1, per cent, of each draw of one count of pictures a class."""

    count: int
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the draws."""
        return float(np.mean(self.scores))

    @property
    def deviation(self) -> float:
        """Of the sample of draws; NaN for a single one."""
        return float(np.std(self.scores, ddof=1)) if len(self.scores) > 1 else float("nan")

    def to_row(self) -> dict[str, Any]:
        """The figures, rounded for tables; None for the deviation of a single draw."""
        deviation = None if len(self.scores) < 2 else round(self.deviation, 2)
        scores = [round(score, 2) for score in self.scores]
        return {"count": self.count, "mean": round(self.mean, 2), "deviation": deviation, "scores": scores}

    def describe(self) -> str:
        """The figures in one line."""
        spread = f" ± {self.deviation:.1f} over {len(self.scores)} draws" if len(self.scores) > 1 else ""
        return f"{self.count} of each class: top-1 {self.mean:.1f} %{spread}"


def measure_few_shot(
    train: Examples,
    test: Examples,
    counts: Sequence[int],
    draws: int,
    method: Kind | Literal["knn"],
    track: Track,
) -> list[FewShot]:
    """Draw `counts` pictures of each class of `train`, `draws` times, and judge on `test`.

    Raises `UserError` for a count that a class does not have, and for pictures with several labels.
    """
    if train.several:
        raise UserError("few-shot measurements need one label a picture", "give pictures with one label each")
    smallest = int(train.targets.sum(0).min())
    if draws < 1 or not counts or not all(1 <= count <= smallest for count in counts):
        what = f"counts are {list(counts)} and draws {draws}, the smallest class has {smallest} pictures"
        raise UserError(what, f"give counts from 1 to {smallest}, and one draw or more")
    found = {count: list[float]() for count in counts}
    strengths: dict[int, float] = {}
    plan = [(count, seed) for count in counts for seed in range(draws)]
    for count, seed in track(plan, len(plan), "few-shot draws"):
        part = train.part(_draw(train.targets, count, seed))
        if method != "knn" and count not in strengths:
            strengths[count] = _strength(part, count, method)
        logits = _fit(part, method, strengths.get(count, 0.0))(test.vectors)
        found[count].append(main_score(logits.numpy(), test.targets, several=False))
    return [FewShot(count, tuple(scores)) for count, scores in found.items()]


def _draw(targets: NDArray[np.bool_], count: int, seed: int) -> NDArray[np.int64]:
    random = np.random.default_rng(seed)
    return np.concatenate([random.permutation(np.flatnonzero(column))[:count] for column in targets.T])


def _strength(part: Examples, count: int, kind: Kind) -> float:
    if count < 2:
        return REGRESSIONS[kind].unchosen
    return choose_strength(kind, part.vectors, part.targets, False, lambda items, *_: items).strength


def _fit(part: Examples, method: Kind | Literal["knn"], strength: float) -> ClassifierHead:
    if method == "knn":
        k = min(NEIGHBOURS, len(part.vectors))
        return NeighbourClassifier(part.vectors, torch.from_numpy(part.targets), k)
    return REGRESSIONS[method](part.vectors, part.targets, several=False).fit(strength)
