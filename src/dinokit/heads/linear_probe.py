"""The sweep of the published linear probe: many heads on one pass of the features, the best on validation is kept.

Learning rates x (class token, or with the mean patch) x (last block, or last four). DINOv3, section 6.1.2; the
learning rates are those of the published code, for batches of 256, and so are inputs and choice. Unlike there, AdamW
takes the place of SGD, vectors are standardised while heads learn (the head that comes out takes them as they are), and
a sweep ends early where no head gets better: fewer steps than published do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinokit.data.track import Track
from dinokit.heads.classification_scores import main_score
from dinokit.heads.classifiers import LinearClassifier
from dinokit.heads.examples import Examples
from dinokit.heads.fit import Candidate, Fit, FitSettings, Material
from dinokit.heads.pooling import Pooling

RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)
"""For batches of 256; for others in proportion."""
SETTINGS = FitSettings(steps=1000, batch=128, weight_decay=0.0, warmup=0.0, validate_every=50)


def probe_settings(steps: int | None, seed: int | None) -> FitSettings | None:
    """The settings with these changed; None where nothing is."""
    changed = {name: value for name, value in (("steps", steps), ("seed", seed)) if value is not None}
    return replace(SETTINGS, **changed) if changed else None


@dataclass(frozen=True)
class Probe:
    """What came of the sweep."""

    head: LinearClassifier
    pooling: Pooling
    """The input that the head takes."""
    name: str
    """Input and learning rate, in words."""
    score: float
    """On the validation set: top-1 or mean average precision, per cent."""
    scores: dict[str, float]
    """Of every head."""


class ColumnsHead(nn.Module):
    """A linear head that reads the columns of one input out of the longest."""

    def __init__(self, columns: slice, classes: int, seed: int) -> None:
        super().__init__()
        self.columns = columns
        self.linear = nn.Linear(columns.stop - columns.start, classes)
        nn.init.normal_(self.linear.weight, std=0.01, generator=torch.Generator().manual_seed(seed))
        nn.init.zeros_(self.linear.bias)

    def forward(self, vectors: Tensor) -> Tensor:
        out: Tensor = self.linear(vectors[:, self.columns])
        return out


def inputs_of(whole: Pooling) -> list[Pooling]:
    """The inputs that take part: one block or all of them, with the patches and without."""
    found = [part for blocks in (1, whole.blocks) for part in (Pooling(blocks, 0), replace(whole, blocks=blocks))]
    return list(dict.fromkeys(found))


def fit_probe(
    train: Examples,
    validation: Examples,
    track: Track,
    settings: FitSettings = SETTINGS,
    rates: Sequence[float] = RATES,
    keep: Path | None = None,
    identity: str = "",
) -> Probe:
    """Train all heads together and keep the best. keep: a file for unfinished work, `identity` whose it is."""
    mean, deviation = train.vectors.mean(0), train.vectors.std(0)
    scale = 1 / torch.where(deviation > 1e-6, deviation, 1.0)
    learnt, judged = ((part.vectors - mean) * scale for part in (train, validation))
    targets = torch.from_numpy(train.targets).float()
    candidates, parts = _candidates(train, settings, rates)

    def loss(head: nn.Module, chosen: Tensor) -> Tensor:
        logits = head(learnt[chosen])
        if train.several:
            return F.binary_cross_entropy_with_logits(logits, targets[chosen])
        return F.cross_entropy(logits, targets[chosen].argmax(dim=1))

    material = Material(
        examples=len(learnt),
        batch=lambda chosen, _: torch.tensor(chosen),
        loss=loss,
        score=lambda head: main_score(head(judged).numpy(), validation.targets, train.several),
    )
    fitted = Fit(candidates, material, settings, keep, identity).run(track, "training linear heads")
    head = fitted.head
    assert isinstance(head, ColumnsHead)
    weight = head.linear.weight.detach() * scale[head.columns]
    bias = head.linear.bias.detach() - weight @ mean[head.columns]
    return Probe(LinearClassifier.of(weight, bias), parts[fitted.name], fitted.name, fitted.score, dict(fitted.scores))


def _candidates(
    train: Examples, settings: FitSettings, rates: Sequence[float]
) -> tuple[dict[str, Candidate], dict[str, Pooling]]:
    heads, parts = {}, {}
    for part in inputs_of(train.pooling):
        for rate in rates:
            name = f"last {part.blocks}, {'with' if part.cells else 'without'} patches, lr {rate:g}"
            head = ColumnsHead(train.columns(part), train.targets.shape[1], settings.seed)
            heads[name] = Candidate(head, rate * settings.batch / 256)
            parts[name] = part
    return heads, parts
