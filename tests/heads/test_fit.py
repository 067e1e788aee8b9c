"""The training loop of heads: the best is kept, unfinished work goes on, wrong settings are said."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinokit.data.track import silent
from dinokit.errors import UserError
from dinokit.heads.fit import Candidate, Fit, FitSettings, Material

pytestmark = pytest.mark.usefixtures("one_thread")
Batch = tuple[Tensor, Tensor]


def material(seed: int = 0, noise: float = 0.0) -> Material[Batch]:
    """Points of two classes apart by a line, half of them for validation."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(200, 4, generator=generator)
    labels = (points @ torch.tensor([1.0, -2.0, 0.5, 0.0]) + noise * torch.randn(200, generator=generator) > 0).long()

    def score(head: nn.Module) -> float:
        return float((head(points[100:]).argmax(1) == labels[100:]).float().mean())

    return Material(
        examples=100,
        batch=lambda chosen, _: (points[chosen], labels[chosen]),
        loss=lambda head, batch: F.cross_entropy(head(batch[0]), batch[1]),
        score=score,
    )


def candidates(*rates: float) -> dict[str, Candidate]:
    torch.manual_seed(0)
    return {str(rate): Candidate(nn.Linear(4, 2), rate) for rate in rates}


def test_a_head_learns_and_a_better_rate_wins() -> None:
    fitted = Fit(candidates(1e-5, 3e-2), material(), FitSettings(steps=120, validate_every=20)).run(silent)
    assert fitted.name == "0.03"
    assert fitted.score > 0.9
    assert fitted.scores["1e-05"] < fitted.score
    assert [step for step, _, _ in fitted.history] == [20, 40, 60, 80, 100, 120]


def test_training_ends_when_nothing_gets_better() -> None:
    fitted = Fit(candidates(3e-2), material(), FitSettings(steps=5000, validate_every=10, patience=3)).run(silent)
    assert fitted.history[-1][0] == fitted.step + 30


def test_the_head_is_that_of_the_best_step() -> None:
    data = material(noise=3.0)
    fitted = Fit(candidates(0.5), data, FitSettings(steps=200, validate_every=5, patience=0)).run(silent)
    assert data.score(fitted.head) == fitted.score == max(score for _, _, score in fitted.history)


def test_killed_work_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    settings, keep = FitSettings(steps=60, validate_every=10), tmp_path / "progress.pt"
    whole = Fit(candidates(1e-2), material(), settings).run(silent)
    with pytest.raises(KeyboardInterrupt):
        Fit(candidates(1e-2), material(), settings, keep).run(_stop_after(37))
    assert keep.exists()
    second = Fit(candidates(1e-2), material(), settings, keep)
    assert second.step == 30
    fitted = second.run(silent)
    assert torch.equal(fitted.head.weight, whole.head.weight)
    assert fitted.history == whole.history
    assert not keep.exists()


def _stop_after(steps: int):  # type: ignore[no-untyped-def]
    def track(items, total, label, done=0):  # type: ignore[no-untyped-def]
        for number, item in enumerate(items):
            if number == steps:
                raise KeyboardInterrupt
            yield item

    return track


@pytest.mark.parametrize("content", [b"", b"no progress", b"PK\x03\x04 a broken archive"])
def test_damaged_progress_is_left_alone(tmp_path: Path, content: bytes) -> None:
    keep = tmp_path / "progress.pt"
    keep.write_bytes(content)
    assert Fit(candidates(1e-2), material(), FitSettings(), keep).step == 0


def test_progress_of_other_settings_is_not_taken_up(tmp_path: Path) -> None:
    keep = tmp_path / "progress.pt"
    with pytest.raises(KeyboardInterrupt):
        Fit(candidates(1e-2), material(), FitSettings(validate_every=5), keep).run(_stop_after(8))
    assert Fit(candidates(1e-2), material(), FitSettings(validate_every=5, seed=1), keep).step == 0


def test_a_loss_that_is_no_number_is_said() -> None:
    broken = material()
    nothing = Material(100, broken.batch, lambda head, batch: broken.loss(head, batch) * torch.nan, lambda _: torch.nan)
    with pytest.raises(UserError, match="no head could be trained"):
        Fit(candidates(1e-2), nothing, FitSettings(steps=5)).run(silent)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"batch": 0}, {"lr": 0.0}, {"lr": float("nan")}])
def test_wrong_settings_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        FitSettings(**wrong)  # type: ignore[arg-type]
