"""Settings: files, overrides, the one dial, and what is said about mistakes."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch

from dinokit.errors import UserError
from dinokit.pretrain.budget import Speed, derive_recipe, parse_duration
from dinokit.pretrain.coding_rate_objective import CodingRateObjective
from dinokit.pretrain.dinov3_objective import Dinov3Objective
from dinokit.pretrain.recipe import Recipe, Stage
from dinokit.pretrain.recipe_file import merge, parse_assignments, read_toml, recipe_from_dict, recipe_to_toml
from dinokit.pretrain.start import read_preset


def test_a_recipe_survives_its_file() -> None:
    recipe = replace(Recipe(), stages=(Stage(10, 96, 48), Stage(5, 128, 64)), objective="dinov3", drop_path=0.1)
    assert recipe_from_dict(read_toml(recipe_to_toml(recipe), "recipe.toml")) == recipe


def test_assignments_override_by_name() -> None:
    values = parse_assignments(["optimizer.lr=1e-4", "objective=dinov3", "masks.ratio=[0.2, 0.4]", "run.steps=7"])
    recipe = recipe_from_dict(values)
    assert (recipe.optimizer.lr, recipe.objective, recipe.masks.ratio, recipe.run.steps) == (
        1e-4,
        "dinov3",
        (0.2, 0.4),
        7,
    )
    assert isinstance(recipe.build_objective(), Dinov3Objective)
    assert isinstance(Recipe().build_objective(), CodingRateObjective)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("optimizer.rl=1", r"no setting optimizer\.rl: did you mean optimizer\.lr"),
        ("optimizer.lr=fast", r"optimizer\.lr = 'fast' has the wrong type"),
        ("optimizer.lr=-1", r"optimizer\.lr = -1\.0 is out of bounds"),
        ("optimizer.beta1=2", "out of bounds: give 0 to 0.9999"),
        ("masks.probability=2", "out of bounds"),
        ("masks.ratio=[0.5, 0.1]", "out of bounds"),
        ("teacher.momentum_end=1.5", "out of bounds"),
        ("stages=5", "5 is no stage"),
        ("coding_rate.projection=0", r"coding_rate\.projection = 0 is out of bounds"),
        ("dinov3.koleo_neighbours=64", "less than run.batch"),
        ("dinov3.teacher_temperature_warmup=-1", "teacher_temperature_warmup"),
        ("optimizer=3", "is one value"),
        ("objective=simclr", "choose dinov3 or coding-rate"),
        ("run.batch=1", r"run\.batch = 1 is out of bounds"),
        ("run.steps=true", "wrong type"),
        ("crops.global_size=65", "does not fit patches of 16"),
        ("teacher.momentum=1.5", "out of bounds"),
        ("network=vit_smal", "did you mean vit_small"),
        ("dinov3.teacher_temperature=0", "not positive"),
        ("stages=[{steps=1}]", "is no stage.*steps = 100"),
        ("optimizer.lr", "has no value"),
    ],
)
def test_mistakes_are_named(assignment: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipe_from_dict(parse_assignments([assignment]))


def test_the_parts_of_a_run_must_fit_into_its_steps() -> None:
    for assignments, message in (
        (["optimizer.cooldown=5"], r"set run\.steps"),
        (["optimizer.schedule=cosine"], r"set run\.steps"),
        (["optimizer.weight_decay_schedule=linear"], r"weight_decay_schedule needs an end.*set run\.steps"),
        (["run.steps=1000", "optimizer.cooldown=1400"], "do not fit into 1000"),
        (["run.steps=200", "optimizer.schedule=cosine"], "do not fit into 200"),
    ):
        with pytest.raises(UserError, match=message):
            recipe_from_dict(parse_assignments(assignments)).check_length()
    with pytest.raises(UserError, match="already has one value"):
        parse_assignments(["optimizer=3", "optimizer.lr=1"])


def test_durations() -> None:
    assert [parse_duration(text) for text in ("90s", "30m", "2h", "1.5h", "1d")] == [90, 1800, 7200, 5400, 86400]
    for wrong in ("2", "two hours", "0h", "-1h", ""):
        with pytest.raises(UserError, match="is no time"):
            parse_duration(wrong)


RATES = {64: 120.0, 96: 60.0, 128: 30.0}


def derived(chosen: Mapping[str, Any], pictures: int = 2000, seconds: float = 3600, probe: float = 0.0) -> Recipe:
    return derive_recipe(
        chosen, pictures, seconds, torch.device("cpu"), lambda r: Speed(RATES[r.crops.global_size], probe)
    )


def seconds_of(recipe: Recipe) -> float:
    rest = recipe.run.steps - sum(stage.steps for stage in recipe.stages)
    parts = [*((s.steps, s.global_size) for s in recipe.stages), (rest, recipe.crops.global_size)]
    return sum(steps * recipe.run.batch / RATES[size] for steps, size in parts)


def test_the_budget_fills_the_time_with_stages_and_a_cooldown() -> None:
    recipe = derived({})
    recipe.check_length()
    assert seconds_of(recipe) == pytest.approx(3600, rel=0.02)
    assert [recipe.crops_at(step).global_size for step in (0, recipe.run.steps - 1)] == [64, 128]
    assert recipe.optimizer.cooldown == recipe.run.steps - sum(stage.steps for stage in recipe.stages) > 0
    assert recipe.coding_rate.patch_after == recipe.stages[0].steps
    assert recipe.dinov3.prototypes == 512 == derived({}, pictures=1).dinov3.prototypes


def test_the_budget_leaves_time_for_the_probes() -> None:
    recipe = derived({}, probe=60.0)
    probes = recipe.run.steps // recipe.run.probe_every
    assert 2 <= probes <= 4
    assert seconds_of(recipe) + 60 * 3 == pytest.approx(3600, rel=0.03)


def test_the_budget_keeps_what_was_chosen_and_builds_on_it() -> None:
    recipe = derived({"run": {"batch": 16}, "optimizer": {"cooldown": 30}, "crops": {"global_size": 96}})
    assert (recipe.run.batch, recipe.optimizer.lr, recipe.optimizer.cooldown) == (16, 5e-4, 30)
    assert (recipe.crops.global_size, recipe.stages) == (96, ())
    assert recipe.coding_rate.patch_after == pytest.approx(0.45 * recipe.run.steps, abs=2)
    assert derived({"run": {"batch": 256}, "optimizer": {"lr_scaling": "linear_wrt_256"}}).peak_lr == 1e-3
    preset = read_toml(read_preset("dinov3"), "dinov3")
    recipe = derived(merge(preset, {"crops": {"global_size": 128}}))
    assert (recipe.network, recipe.dinov3.prototypes, recipe.crops.local_size) == ("dinov3_vits16", 8192, 96)


@pytest.mark.parametrize("chosen", [{"run": {"steps": 700}}, {"stages": []}])
def test_a_length_and_a_budget_contradict_each_other(chosen: Mapping[str, Any]) -> None:
    with pytest.raises(UserError, match=r"derives run\.steps"):
        derived(chosen)


def test_a_short_run_stays_with_small_crops() -> None:
    recipe = derived({}, seconds=1500)
    assert (recipe.crop_sizes(), recipe.stages) == ({64, 32}, ())
    assert seconds_of(recipe) == pytest.approx(1500, rel=0.02)
    assert recipe.coding_rate.patch_after == pytest.approx(0.45 * recipe.run.steps, abs=2)
    assert recipe.optimizer.cooldown == pytest.approx(0.2 * recipe.run.steps, abs=2)


def test_a_brief_run_learns_whole_pictures_alone_with_a_fast_teacher() -> None:
    brief, long = derived({}, seconds=400), derived({}, seconds=4000)
    assert brief.run.steps < 1000 < long.run.steps
    assert (brief.coding_rate.match_weight, brief.coding_rate.patch_weight) == (0, 0)
    assert long.coding_rate.match_weight > 0
    assert brief.teacher.momentum < long.teacher.momentum
    assert derived({"coding_rate": {"patch_weight": 0.3}}, seconds=400).coding_rate.patch_weight == 0.3


def test_a_budget_too_small_to_learn_is_refused() -> None:
    with pytest.raises(UserError, match="fewer than 100 steps"):
        derived({}, seconds=10)


@pytest.mark.parametrize(
    ("chosen", "sizes"),
    [
        ({"global_size": 64}, {(64, 32)}),
        ({"global_size": 48}, {(48, 16)}),
        ({"local_size": 96}, {(192, 96)}),
        ({"local_size": 16}, {(64, 16), (96, 16), (128, 16)}),
    ],
)
def test_one_chosen_crop_size_brings_the_other(chosen: dict[str, int], sizes: set[tuple[int, int]]) -> None:
    seen = set()

    def measure(recipe: Recipe) -> Speed:
        seen.add((recipe.crops.global_size, recipe.crops.local_size))
        return Speed(50)

    derive_recipe({"crops": chosen}, 1000, 7200, torch.device("cpu"), measure)
    assert seen == sizes


@pytest.mark.parametrize("name", ["laptop", "larger-crops", "finish", "dinov3"])
def test_presets_of_the_package_are_whole_recipes_with_evidence(name: str) -> None:
    text = read_preset(name)
    recipe_from_dict(read_toml(text, name)).check_length()
    head = text.split("\n\n")[0]
    for word in ("hardware", "time", "expected", "command"):
        assert f"# {word}" in head, f"{name} does not open with its {word}"
    with pytest.raises(UserError, match="known are"):
        read_preset(name + "x")
