"""The one loop that trains heads on frozen features.

Several candidates (learning rates, inputs) train side by side on the same batches, as the published linear protocol
does; the one that is best on the validation set is kept, at the step where it was best. AdamW, linear warm-up, half a
cosine down to zero. The draw of step n is a function of (seed, n), so a run that was killed goes on as if it had not
been.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from dinokit.checkpoints.save import write_atomically
from dinokit.data.track import Track
from dinokit.errors import UserError
from dinokit.heads.progress_file import read_progress, write_progress

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class FitSettings:
    """How a head is trained."""

    steps: int = 1000
    batch: int = 16
    lr: float = 1e-3
    weight_decay: float = 1e-3
    warmup: float = 0.04
    """Share of the steps."""
    validate_every: int = 100
    patience: int = 5
    """Validations without a better score after which training ends; 0 for never."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "validate_every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}", "give 1 or more")
        for name, value in (("weight_decay", self.weight_decay), ("seed", self.seed)):
            if not 0 <= value < 2**62:
                raise UserError(f"{name} is {value}", "give 0 or more")
        if not 0 < self.lr < math.inf:
            raise UserError(f"lr is {self.lr}", "give a positive number, such as 1e-3")


@dataclass(frozen=True)
class Candidate:
    """A head that takes part, with its own learning rate."""

    head: nn.Module
    lr: float


@dataclass(frozen=True)
class Material(Generic[Batch]):
    """What heads learn from, and how they are judged."""

    examples: int
    """How many there are; each step draws some of their numbers, all of them once before any is drawn again."""
    batch: Callable[[Sequence[int], torch.Generator], Batch]
    """What `loss` takes, from the numbers of examples and a generator of the step."""
    loss: Callable[[nn.Module, Batch], Tensor]
    score: Callable[[nn.Module], float]
    """On the validation set; greater is better. NaN is worse than anything."""


@dataclass(frozen=True)
class Fitted:
    """What came of it."""

    name: str
    """Of the best candidate."""
    head: nn.Module
    score: float
    step: int
    """At which it was best."""
    scores: Mapping[str, float]
    """The best score of every candidate."""
    history: tuple[tuple[int, float, float], ...]
    """Step, mean loss and best score, at each validation."""


@dataclass
class _Best:
    score: float = -math.inf
    step: int = 0
    state: dict[str, Tensor] | None = None


class Fit(Generic[Batch]):
    """A training of candidates; `run` does it. keep: a file in which unfinished work is kept, and gone on from."""

    def __init__(
        self,
        candidates: Mapping[str, Candidate],
        material: Material[Batch],
        settings: FitSettings,
        keep: Path | None = None,
        identity: str = "",
    ) -> None:
        self.candidates, self.material, self.settings, self.keep = candidates, material, settings, keep
        self.identity = repr((sorted(asdict(settings).items()), sorted(candidates), material.examples, identity))
        groups = [{"params": list(c.head.parameters()), "lr": c.lr, "top": c.lr} for c in candidates.values()]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay, betas=(0.9, 0.999))
        self.best = {name: _Best() for name in candidates}
        self.step, self.history = 0, list[tuple[int, float, float]]()
        self._resume()

    def run(self, track: Track, label: str = "training the head") -> Fitted:
        """Train to the end, or until no candidate gets better. Raises `UserError` if every loss turns NaN."""
        settings = self.settings
        with torch.random.fork_rng(devices=[]):  # heads learn on the CPU; dropout draws from the global generator
            for _ in track(self._steps(), settings.steps, label, self.step):
                pass
        name = max(self.best, key=lambda candidate: self.best[candidate].score)
        best = self.best[name]
        if best.state is None:
            raise UserError("no head could be trained: all scores are NaN", "lower --lr, or check the labels")
        head = self.candidates[name].head
        head.load_state_dict(best.state)
        if self.keep is not None:
            self.keep.unlink(missing_ok=True)
        scores = {candidate: each.score for candidate, each in self.best.items()}
        return Fitted(name, head.eval(), best.score, best.step, scores, tuple(self.history))

    def _steps(self) -> Iterator[int]:
        losses: list[float] = []
        while self.step < self.settings.steps and not self._stale():
            losses.append(self._train_step())
            self.step += 1
            if self.step % self.settings.validate_every == 0 or self.step == self.settings.steps:
                self._validate(sum(losses) / len(losses))
                losses.clear()
            yield self.step

    def _train_step(self) -> float:
        generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + self.step)
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))  # dropout
        batch = self.material.batch(self._draw(), generator)
        factor = self._lr_factor(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["top"] * factor
        losses = [self.material.loss(candidate.head.train(), batch) for candidate in self.candidates.values()]
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(losses).sum().backward()
        self.optimizer.step()
        return float(sum(loss.item() for loss in losses)) / len(losses)

    def _draw(self) -> list[int]:
        """The examples of this step: a part of one shuffle after another of all of them."""
        examples, size = self.material.examples, self.settings.batch
        chosen = []
        for place in range(self.step * size, (self.step + 1) * size):
            epoch, within = divmod(place, examples)
            chosen.append(int(_shuffle(examples, self.settings.seed, epoch)[within]))
        return chosen

    def _lr_factor(self, step: int) -> float:
        warmup = max(round(self.settings.warmup * self.settings.steps), 1)
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(self.settings.steps - warmup, 1)))

    @torch.no_grad()
    def _validate(self, loss: float) -> None:
        for name, candidate in self.candidates.items():
            score = self.material.score(candidate.head.eval())
            if score > self.best[name].score:
                self.best[name] = _Best(score, self.step, copy.deepcopy(candidate.head.state_dict()))
        self.history.append((self.step, loss, max(best.score for best in self.best.values())))
        if self.keep is not None:
            self._save(self.keep)

    def _stale(self) -> bool:
        if not self.settings.patience or not self.history:
            return False
        latest = max(best.step for best in self.best.values())
        return self.step - latest >= self.settings.patience * self.settings.validate_every

    def _save(self, path: Path) -> None:
        progress: dict[str, Any] = {
            "identity": self.identity,
            "step": self.step,
            "history": self.history,
            "heads": {name: candidate.head.state_dict() for name, candidate in self.candidates.items()},
            "best": {name: (best.score, best.step, best.state) for name, best in self.best.items()},
            "optimizer": self.optimizer.state_dict(),
        }
        write_atomically(path, write_progress(progress))

    def _resume(self) -> None:
        progress = None if self.keep is None else read_progress(self.keep)
        if progress is None or progress.get("identity") != self.identity:
            return
        for name, candidate in self.candidates.items():
            candidate.head.load_state_dict(progress["heads"][name])
        self.best = {name: _Best(*progress["best"][name]) for name in self.candidates}
        self.optimizer.load_state_dict(progress["optimizer"])
        self.step, self.history = progress["step"], [tuple(line) for line in progress["history"]]


_shuffles: dict[tuple[int, int, int], Tensor] = {}


def _shuffle(count: int, seed: int, epoch: int) -> Tensor:
    """The order of `count` examples in an epoch; the last two are remembered."""
    key = (count, seed, epoch)
    if key not in _shuffles:
        while len(_shuffles) >= 2:
            _shuffles.pop(next(iter(_shuffles)))
        generator = torch.Generator().manual_seed(seed * 1_000_003 + 7919 * epoch + 1)
        _shuffles[key] = torch.randperm(count, generator=generator)
    return _shuffles[key]
