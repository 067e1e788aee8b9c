"""Collapse is noticed, named, and given time before it counts."""

import re

import pytest
import torch

from dinokit.pretrain.monitor import GRACE, PATIENCE, CollapseError, Monitor, measure_health


def watch(features: torch.Tensor, parts: dict[str, float], steps: int) -> list[str]:
    monitor, said = Monitor(), []
    for step in range(0, steps, 20):
        monitor.see(features)
        said += monitor.check(step, parts)[1]
    return said


HEALTHY = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))


def test_healthy_features_pass() -> None:
    assert watch(HEALTHY, {"student_entropy": 0.9}, 2000) == []
    health = measure_health(HEALTHY)
    assert 20 < health.rank <= 32
    assert 0.9 < health.variance <= 1


def test_rank_counts_directions() -> None:
    two = HEALTHY[:, :2] @ torch.eye(2, 32)
    assert measure_health(two).rank < 2.1


@pytest.mark.parametrize(
    ("features", "parts", "message"),
    [
        (HEALTHY * 1e-3 + 1, {}, "features of different pictures are the same"),
        (HEALTHY[:, :2] @ torch.eye(2, 32), {}, r"features fill only 2\.0 directions"),
        (HEALTHY, {"student_entropy": 0.05}, "few prototypes get all pictures"),
        (HEALTHY, {"spread": 0.01}, "projections of different pictures are nearly the same"),
    ],
)
def test_each_kind_of_collapse_is_named_with_a_remedy(
    features: torch.Tensor, parts: dict[str, float], message: str
) -> None:
    with pytest.raises(CollapseError, match=message) as caught:
        watch(features, parts, GRACE + PATIENCE + 100)
    assert caught.value.hint
    [said] = [line for line in watch(features, parts, 100) if message.split()[0] in line]
    assert re.search(message + r".* at step 80: .*\w", said)


def test_a_sign_that_passes_is_forgotten() -> None:
    monitor = Monitor()
    for step in range(0, 3000, 20):
        monitor.see(HEALTHY)
        monitor.check(step, {"student_entropy": 0.05 if step % 200 < 100 else 0.9})


def test_two_broken_steps_are_forgiven_and_three_are_not() -> None:
    monitor = Monitor()
    assert not monitor.finite(1, "loss", float("nan"))
    assert not monitor.finite(2, "loss", float("inf"))
    assert monitor.finite(3, "loss", 1.0)
    assert not monitor.healthy
    assert monitor.finite(3, "gradient", 1.0)
    assert monitor.healthy
    monitor.finite(4, "loss", float("nan"))
    monitor.finite(5, "loss", float("nan"))
    with pytest.raises(CollapseError, match="3 steps in a row"):
        monitor.finite(6, "loss", float("nan"))


def test_targets_that_stay_uniform_are_named() -> None:
    [said] = watch(HEALTHY, {"target_entropy": 0.98}, 3000)
    assert "targets say nothing (entropy 0.980 of 1) at step 80" in said
    with pytest.raises(CollapseError, match=r"targets say nothing.*unit_prototypes"):
        watch(HEALTHY, {"target_entropy": 0.98}, 3400)
