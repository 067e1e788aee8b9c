"""The pictures of a run: several sources decoded into memory (or as they come, if too many), mixed by weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dinokit.data.listing import SkippedFiles
from dinokit.data.mixture import Mixture
from dinokit.data.opening import open_pictures
from dinokit.data.store import Squares, StreamedSquares, bytes_needed, decode_all, gather
from dinokit.errors import UserError
from dinokit.inference.memory import free_bytes
from dinokit.pretrain.recipe import RunSettings

GIB = 2**30


@dataclass(frozen=True)
class TrainingPictures:
    """An endless stream of batches, addressed by step."""

    parts: tuple[Squares, ...]
    mixture: Mixture
    skipped: SkippedFiles

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def batch(self, step: int, size: int) -> tuple[Tensor, Tensor]:
        """Pictures uint8 [B, 3, S, S] and aspects float32 [B] of one step; those of the next are decoded meanwhile."""
        batch = gather(self.parts, *self.mixture.draw(step * size, size))
        numbers, indices = self.mixture.draw((step + 1) * size, size)
        for number, part in enumerate(self.parts):
            if isinstance(part, StreamedSquares):
                part.prefetch(indices[numbers == number])
        return batch


def open_training_pictures(
    sources: Sequence[str],
    settings: RunSettings,
    weights: Sequence[float] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TrainingPictures:
    """Open and decode `sources`. Raises `UserError` for a source that is missing or has no readable picture."""
    if weights is not None and len(weights) != len(sources):
        raise UserError(f"{len(weights)} weights for {len(sources)} data sets", "give one weight a data set")
    skipped = SkippedFiles()
    opened = [open_pictures(source, skipped) for source in sources]
    total = sum(len(pictures) for pictures in opened)
    free = free_bytes(torch.device("cpu"))
    limit = min(settings.memory_limit * GIB, math.inf if free is None else free / 2)
    in_memory = bytes_needed(total, settings.picture_side) <= limit
    parts: list[Squares] = []
    done = 0
    for pictures in opened:
        if in_memory:
            report = None if progress is None else lambda n, _, start=done: progress(start + n, total)
            parts.append(decode_all(pictures, settings.picture_side, progress=report, skipped=skipped))
        else:
            parts.append(StreamedSquares(pictures, settings.picture_side, skipped=skipped))
        done += len(pictures)
    return TrainingPictures(tuple(parts), Mixture(parts, weights, settings.seed), skipped)


PROBE_BANK = 4000
PROBE_QUERIES = 1000
PROBE_LEAST = 100
"""Labelled pictures that a probe needs."""


@dataclass(frozen=True)
class ProbePictures:
    """Labelled pictures of one data set: a bank, and queries whose labels are held out. Only the probe uses labels."""

    part: Squares
    bank: Tensor
    """int64, places in `part`."""
    queries: Tensor

    def __len__(self) -> int:
        return len(self.bank) + len(self.queries)

    def squares(self, chosen: Tensor, block: int = 128) -> Iterator[Tensor]:
        """Pictures uint8 [block, 3, S, S], fetched as they are asked for."""
        return (self.part.get(indices)[0] for indices in chosen.split(block))


def probe_pictures(pictures: TrainingPictures, seed: int = 0) -> ProbePictures | None:
    """A tenth of the labelled pictures as queries against (at most 4,000 of) the others; None without labels."""
    for part in pictures.parts:
        labelled = torch.nonzero(part.labels >= 0).flatten()
        if len(labelled) >= PROBE_LEAST and len(part.labels[labelled].unique()) > 1:
            order = labelled[torch.randperm(len(labelled), generator=torch.Generator().manual_seed(seed))]
            tenth = len(order) // 10
            return ProbePictures(part, bank=order[tenth:][:PROBE_BANK], queries=order[:tenth][:PROBE_QUERIES])
    return None
