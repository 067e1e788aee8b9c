"""Settings: files, overrides, the one dial, and what is said about mistakes."""

from dataclasses import replace

import pytest
import torch

from dinokit.errors import UserError
from dinokit.pretrain.budget import derive_recipe, parse_duration
from dinokit.pretrain.objectives import CodingRateObjective, Dinov3Objective
from dinokit.pretrain.recipe import Recipe, Stage
from dinokit.pretrain.recipe_file import parse_assignments, recipe_from_dict, recipe_from_toml, recipe_to_toml
from dinokit.pretrain.start import read_preset


def test_a_recipe_survives_its_file() -> None:
    recipe = replace(Recipe(), stages=(Stage(10, 96, 48), Stage(5, 128, 64)), objective="dinov3", drop_path=0.1)
    assert recipe_from_toml(recipe_to_toml(recipe), "recipe.toml") == recipe


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
        ("optimizer.lr=-1", "must be positive"),
        ("optimizer=3", "is one value"),
        ("objective=simclr", "choose dinov3 or coding-rate"),
        ("run.batch=1", r"run\.batch = 1 is too small"),
        ("run.steps=true", "wrong type"),
        ("crops.global_size=65", "does not fit patches of 16"),
        ("teacher.momentum=1.5", "out of bounds"),
        ("optimizer.cooldown=5", r"set run\.steps"),
        ("network=vit_smal", "did you mean vit_small"),
        ("dinov3.teacher_temperature=0", "not positive"),
        ("stages=[{steps=1}]", "give steps, global_size and local_size"),
        ("optimizer.lr", "has no value"),
    ],
)
def test_mistakes_are_named(assignment: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipe_from_dict(parse_assignments([assignment]))


def test_durations() -> None:
    assert [parse_duration(text) for text in ("90s", "30m", "2h", "1.5h", "1d")] == [90, 1800, 7200, 5400, 86400]
    for wrong in ("2", "two hours", "0h", "-1h", ""):
        with pytest.raises(UserError, match="is no time"):
            parse_duration(wrong)


def test_the_budget_fills_the_time_with_stages_and_a_cooldown() -> None:
    rates = {64: 120.0, 96: 60.0, 128: 30.0}
    recipe = derive_recipe(Recipe(), 2000, 3600, torch.device("cpu"), lambda r: rates[r.crops.global_size])
    seconds = sum(s.steps * recipe.run.batch / rates[s.global_size] for s in recipe.stages)
    rest = recipe.run.steps - sum(stage.steps for stage in recipe.stages)
    seconds += rest * recipe.run.batch / rates[recipe.crops.global_size]
    assert seconds == pytest.approx(3600, rel=0.02)
    assert recipe.crops.global_size == 128
    assert 0 < recipe.optimizer.cooldown <= rest
    assert recipe.dinov3.prototypes == 512


def test_a_budget_too_small_to_learn_is_refused() -> None:
    with pytest.raises(UserError, match="fewer than 100 steps"):
        derive_recipe(Recipe(), 2000, 10, torch.device("cpu"), lambda _: 50.0)


@pytest.mark.parametrize("name", ["laptop", "finish", "dinov3"])
def test_presets_of_the_package_are_whole_recipes_with_evidence(name: str) -> None:
    text = read_preset(name)
    recipe_from_toml(text, name)
    head = text.split("\n\n")[0]
    for word in ("hardware", "time", "expected", "command"):
        assert f"# {word}" in head, f"{name} does not open with its {word}"
    with pytest.raises(UserError, match="known are"):
        read_preset(name + "x")
