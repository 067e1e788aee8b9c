"""Learning rate, decay, momentum and temperature follow the published curves; ours run on and cool down."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from helpers_golden import load_golden

from dinokit.pretrain.recipe import Recipe
from dinokit.pretrain.recipe_file import recipe_from_dict
from dinokit.pretrain.schedules import Ramp, Schedules, batch_size_factor

TENSORS, FACTS = load_golden("schedules")
PUBLISHED_NAMES = {
    "lr": "lr",
    "last_layer_lr": "last_layer_lr",
    "weight_decay": "wd",
    "momentum": "momentum",
    "teacher_temperature": "teacher_temp",
}


def older_ramp(
    base: float, final: float, total: int, warmup: int = 0, start: float = 0.0, freeze: int = 0, extra: float = 0.0
) -> Ramp:
    """The older family: the warm-up reaches its end a step before the cosine begins, which stops short of its end."""
    ramp = Ramp(start, frozen=freeze).to(base, since=freeze, over=warmup - 1)
    rest = total - warmup - freeze
    return ramp.to(final, since=freeze + warmup, over=rest - 1 if extra else rest, curve="cosine", extra=extra)


def newer_ramp(start: float, peak: float, end: float, warmup: int, total: int, cosine: int | None = None) -> Ramp:
    """The newer family: the cosine begins where the warm-up ends, and its last step has the end."""
    points = total - warmup if cosine is None else cosine
    over = points - 1 if points > 1 else points
    return Ramp(start).to(peak, since=0, over=warmup).to(end, since=warmup, over=over, curve="cosine")


def assert_follows(ramp: Ramp, name: str) -> None:
    expected = TENSORS[name].numpy()
    np.testing.assert_allclose(
        [ramp.at(step) for step in range(len(expected))], expected, rtol=1e-9, atol=1e-12, err_msg=name
    )


@pytest.mark.parametrize("name", list(FACTS["cosine"]))
def test_the_older_family(name: str) -> None:
    case = FACTS["cosine"][name]
    ramp = older_ramp(
        case["base_value"],
        case["final_value"],
        case["total_iters"],
        case.get("warmup_iters", 0),
        case.get("start_warmup_value", 0.0),
        case.get("freeze_iters", 0),
        case.get("trunc_extra", 0.0),
    )
    assert len(TENSORS[f"cosine.{name}"]) > case["total_iters"]  # it goes on past the end
    assert_follows(ramp, f"cosine.{name}")


@pytest.mark.parametrize("name", list(FACTS["linear_warmup_cosine"]))
def test_the_newer_family(name: str) -> None:
    case = FACTS["linear_warmup_cosine"][name]
    total, cosine, warmup = case["total_iterations"], case["cosine_iterations"], case["warmup_iterations"]
    ramp = newer_ramp(case["start"], case["peak"], case["end"], warmup, total, cosine)
    assert_follows(ramp, f"linear_warmup_cosine.{name}")


def steps_of(fields: Mapping[str, float], name: str, case: Mapping[str, Any]) -> int:
    return int(fields.get(name, 0) * case["iterations_per_epoch"])


def older_schedules(case: Mapping[str, Any], total: int) -> Schedules:
    f = case["fields"]
    extra, warmup = f["schedule_trunc_extra"], steps_of(f, "warmup_teacher_temp_epochs", case)
    lr = older_ramp(f["lr"], f["min_lr"], total, steps_of(f, "warmup_epochs", case), extra=extra)
    decay = older_ramp(f["weight_decay"], f["weight_decay_end"], total, extra=extra)
    momentum = older_ramp(f["momentum_teacher"], f["final_momentum_teacher"], total, extra=extra)
    temperature = Ramp(f["warmup_teacher_temp"]).to(f["teacher_temp"], since=0, over=warmup - 1)
    frozen = steps_of(f, "freeze_last_layer_epochs", case)
    return Schedules(lr, replace(lr, frozen=frozen), decay, momentum, temperature)


def newer_schedules(case: Mapping[str, Any], total: int) -> Schedules:
    factor = batch_size_factor(case["scaling_rule"], case["batch_size_per_gpu"] * case["world_size"])

    def ramp(name: str, scale: float = 1.0) -> Ramp:
        f = case["fields"][name]
        cosine = steps_of(f, "cosine_epochs", case) if "cosine_epochs" in f else None
        warmup = steps_of(f, "warmup_epochs", case)
        return newer_ramp(f["start"], f["peak"] * scale, f["end"] * scale, warmup, total, cosine)

    lr = ramp("lr", factor)
    frozen = steps_of(case["fields"]["lr"], "freeze_last_layer_epochs", case)
    return Schedules(lr, replace(lr, frozen=frozen), ramp("weight_decay"), ramp("momentum"), ramp("teacher_temp"))


@pytest.mark.parametrize("name", list(FACTS["build_schedulers"]))
def test_published_schedules_are_ramps(name: str) -> None:
    case = FACTS["build_schedulers"][name]
    build = older_schedules if case["style"].startswith("cosine") else newer_schedules
    schedules = build(case, case["epochs"] * case["iterations_per_epoch"])
    for ours, theirs in PUBLISHED_NAMES.items():
        assert_follows(getattr(schedules, ours), f"build.{name}.{theirs}")


def older_recipe(case: Mapping[str, Any]) -> dict[str, Any]:
    f = case["fields"]
    return {
        "optimizer": {
            "lr": f["lr"],
            "lr_end": f["min_lr"],
            "schedule": "cosine",
            "warmup": steps_of(f, "warmup_epochs", case),
            "freeze_last_layer": steps_of(f, "freeze_last_layer_epochs", case),
            "cosine_extra": f["schedule_trunc_extra"],
            "weight_decay": f["weight_decay"],
            "weight_decay_end": f["weight_decay_end"],
            "weight_decay_schedule": "cosine",
        },
        "teacher": {"momentum": f["momentum_teacher"], "momentum_end": f["final_momentum_teacher"]},
        "dinov3": {
            "teacher_temperature": f["warmup_teacher_temp"],
            "teacher_temperature_end": f["teacher_temp"],
            "teacher_temperature_warmup": steps_of(f, "warmup_teacher_temp_epochs", case) - 1,
        },
    }


def newer_recipe(case: Mapping[str, Any]) -> dict[str, Any]:
    lr, decay, momentum, temperature = (case["fields"][n] for n in ("lr", "weight_decay", "momentum", "teacher_temp"))
    return {
        "optimizer": {
            "lr": lr["peak"],
            "lr_end": lr["end"],
            "lr_scaling": case["scaling_rule"],
            "schedule": "constant" if lr["peak"] == lr["end"] else "cosine",
            "warmup": steps_of(lr, "warmup_epochs", case),
            "freeze_last_layer": steps_of(lr, "freeze_last_layer_epochs", case),
            "weight_decay": decay["start"],
            "weight_decay_end": decay["end"],
            "weight_decay_schedule": "constant" if decay["start"] == decay["end"] else "linear",
        },
        "teacher": {
            "momentum": momentum["start"],
            "momentum_end": momentum["end"],
            "momentum_schedule": "linear",
        },
        "dinov3": {
            "teacher_temperature": temperature["start"],
            "teacher_temperature_end": temperature["end"],
            "teacher_temperature_warmup": steps_of(temperature, "warmup_epochs", case),
        },
    }


@pytest.mark.parametrize("name", [name for name in FACTS["build_schedulers"] if name != "vit7b_hires"])
def test_recipes_express_the_published_schedules(name: str) -> None:
    case = FACTS["build_schedulers"][name]
    values = older_recipe(case) if case["style"].startswith("cosine") else newer_recipe(case)
    run = {"steps": case["epochs"] * case["iterations_per_epoch"]}
    run["batch"] = case["batch_size_per_gpu"] * case["world_size"]
    recipe = recipe_from_dict({**values, "run": run})
    recipe.check_length()
    schedules = recipe.schedules()
    for ours in ("weight_decay", "momentum", "teacher_temperature"):
        assert_follows(getattr(schedules, ours), f"build.{name}.{PUBLISHED_NAMES[ours]}")
    # the published first step has the learning rate 0; ours is the one after it, hence not the same to the step
    for ours in ("lr", "last_layer_lr"):
        expected = TENSORS[f"build.{name}.{ours}"].numpy()
        found = np.array([getattr(schedules.at(step), ours) for step in range(len(expected))])
        a_step = np.abs(np.diff(TENSORS[f"build.{name}.lr"].numpy())).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=2 * a_step)
        frozen = recipe.optimizer.freeze_last_layer if ours == "last_layer_lr" else 0
        assert (found > 0).tolist() == [step >= frozen for step in range(len(found))]


def test_batch_size_rules() -> None:
    assert batch_size_factor("sqrt_wrt_1024", 4096) * 5e-5 == pytest.approx(4e-4)  # the 7B run
    assert batch_size_factor("linear_wrt_256", 64) == 0.25
    assert batch_size_factor("none", 64) == 1


def test_a_run_without_end_keeps_its_values_after_the_warm_up() -> None:
    settings = {"warmup": 10, "lr": 1e-3, "schedule": "cosine", "weight_decay_schedule": "cosine", "cooldown": 5}
    recipe = recipe_from_dict({"optimizer": settings, "teacher": {"momentum": 0.99, "momentum_end": 1.0}})
    schedules = recipe.schedules()
    assert [schedules.lr.at(step) for step in (0, 4, 9, 10**9)] == pytest.approx([1e-4, 5e-4, 1e-3, 1e-3])
    assert schedules.at(10**9).weight_decay == 0.04
    assert schedules.at(10**9).momentum == 0.99


def test_a_recipe_of_before_there_were_schedules_keeps_its_weight_decay() -> None:
    schedules = recipe_from_dict({"optimizer": {"weight_decay": 0.1}, "run": {"steps": 100}}).schedules()
    assert {schedules.at(step).weight_decay for step in range(100)} == {0.1}


@pytest.mark.parametrize("curve", ["cosine", "linear"])
def test_a_curve_ends_at_its_end_and_stays_there(curve: Any) -> None:
    ramp = Ramp(0.0).to(1.0, since=0, over=4).to(0.1, since=4, over=10, curve=curve)
    values = [ramp.at(step) for step in range(20)]
    assert values[4] == 1.0
    assert values[9] == pytest.approx(0.55)  # halfway between peak and end
    assert values[14:] == [0.1] * 6
    assert all(a >= b for a, b in pairwise(values[4:]))


def test_a_cool_down_starts_where_the_run_is() -> None:
    ramp = Ramp(0.0).to(1.0, since=0, over=10)
    cooled = ramp.to(0.2, since=500, over=100)
    assert [cooled.at(step) for step in (3, 500, 550, 600, 10**6)] == pytest.approx([0.3, 1.0, 0.6, 0.2, 0.2])
    early = ramp.to(0.2, since=5, over=4)  # cut off during the warm-up: from 0.5 down
    assert early.at(7) == pytest.approx(0.35)


def test_a_cool_down_ends_with_the_run() -> None:
    recipe = recipe_from_dict({"optimizer": {"warmup": 2, "cooldown": 4, "lr": 1e-3}, "run": {"steps": 10}})
    lr = [recipe.schedules().at(step).lr for step in range(10)]
    assert lr == pytest.approx([5e-4, *[1e-3] * 5, 7.5e-4, 5e-4, 2.5e-4, 0.0])


def test_the_default_recipe_is_constant_after_its_warm_up() -> None:
    schedules = replace(Recipe(), run=replace(Recipe().run, steps=5000)).schedules()
    settled = [replace(schedules.at(step), step=0, teacher_temperature=0.0) for step in (500, 2500, 4999)]
    assert settled[0] == settled[1] == settled[2]
