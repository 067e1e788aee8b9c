"""Learning rate, decay, momentum and temperature follow the published curves; ours run on and cool down."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from helpers_golden import load_golden

from dinokit.pretrain.schedules import (
    Ramp,
    assemble_cosine,
    assemble_ramps,
    batch_size_factor,
    cosine_schedule,
    warmup_cosine_schedule,
)

TENSORS, FACTS = load_golden("schedules")


def published(name: str) -> Any:
    return TENSORS[name].numpy()


@pytest.mark.parametrize("name", list(FACTS["cosine"]))
def test_cosine_family(name: str) -> None:
    case = FACTS["cosine"][name]
    array = cosine_schedule(
        case["base_value"],
        case["final_value"],
        case["total_iters"],
        warmup=case.get("warmup_iters", 0),
        start=case.get("start_warmup_value", 0.0),
        freeze=case.get("freeze_iters", 0),
        truncation=case.get("trunc_extra", 0.0),
    )
    expected = published(f"cosine.{name}")  # three steps longer: past the end the final value holds
    assert len(array) == case["total_iters"]
    np.testing.assert_allclose(array, expected[: len(array)], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(expected[len(array) :], case["final_value"])


@pytest.mark.parametrize("name", list(FACTS["linear_warmup_cosine"]))
def test_warmup_cosine_family_and_the_ramp_that_makes_it(name: str) -> None:
    case = FACTS["linear_warmup_cosine"][name]
    total, cosine, warmup = case["total_iterations"], case["cosine_iterations"], case["warmup_iterations"]
    array = warmup_cosine_schedule(case["start"], case["peak"], case["end"], warmup=warmup, total=total, cosine=cosine)
    np.testing.assert_allclose(array, published(f"linear_warmup_cosine.{name}"), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", list(FACTS["build_schedulers"]))
def test_published_recipes(name: str) -> None:
    case = FACTS["build_schedulers"][name]
    epochs, per_epoch, fields = case["epochs"], case["iterations_per_epoch"], case["fields"]
    if case["style"].startswith("cosine"):
        schedules = assemble_cosine(fields, epochs, per_epoch)
    else:
        factor = batch_size_factor(case["scaling_rule"], case["batch_size_per_gpu"] * case["world_size"])
        schedules = assemble_ramps(fields, epochs, per_epoch, factor)
    for ours, theirs in {
        "lr": "lr",
        "weight_decay": "wd",
        "momentum": "momentum",
        "teacher_temperature": "teacher_temp",
        "last_layer_lr": "last_layer_lr",
    }.items():
        expected = published(f"build.{name}.{theirs}")
        np.testing.assert_allclose(getattr(schedules, ours), expected, rtol=1e-9, atol=1e-12, err_msg=theirs)


def test_batch_size_rules() -> None:
    assert batch_size_factor("sqrt_wrt_1024", 4096) * 5e-5 == pytest.approx(4e-4)  # the 7B run
    assert batch_size_factor("linear_wrt_256", 64) == 0.25
    assert batch_size_factor("none", 64) == 1
    assert Ramp(1e-6, 1e-3, 1e-5).scaled(2) == Ramp(1e-6, 2e-3, 2e-5)


def test_a_run_without_end_keeps_its_learning_rate() -> None:
    ramp = Ramp(0.0, 1e-3, 0.0, warmup=10)
    assert [ramp.at(0), ramp.at(5), ramp.at(10), ramp.at(10**9)] == pytest.approx([0, 5e-4, 1e-3, 1e-3])


@pytest.mark.parametrize("shape", ["cosine", "linear"])
def test_a_planned_run_ends_at_its_end_and_stays_there(shape: Any) -> None:
    ramp = Ramp(0.0, 1.0, 0.1, warmup=4, total=15, shape=shape)
    values = [ramp.at(step) for step in range(20)]
    assert values[4] == 1.0
    assert values[9] == pytest.approx(0.55)  # halfway between peak and end
    assert values[14:] == pytest.approx([0.1] * 6)
    assert all(a >= b for a, b in pairwise(values[4:]))


def test_a_cool_down_starts_where_the_run_is_and_reaches_the_end() -> None:
    ramp = Ramp(0.0, 1.0, 0.2, warmup=10)
    assert ramp.cooled(500, begin=500, length=100) == 1.0
    assert ramp.cooled(550, begin=500, length=100) == pytest.approx(0.6)
    assert ramp.cooled(600, begin=500, length=100) == pytest.approx(0.2)
    assert ramp.cooled(10**6, begin=500, length=100) == pytest.approx(0.2)
    assert ramp.cooled(3, begin=500, length=100) == ramp.at(3)
    assert ramp.cooled(7, begin=5, length=4) == pytest.approx(0.35)  # cut off during the warm-up: from 0.5 down


def test_impossible_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="warmup 20"):
        Ramp(0.0, 1.0, 0.0, warmup=20, total=10)
    with pytest.raises(ValueError, match="longer than the whole"):
        cosine_schedule(1.0, 0.0, 10, warmup=8, freeze=5)
