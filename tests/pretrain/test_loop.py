"""A run as a person sees it: it learns, stops, goes on exactly, starts from another model, and names a collapse."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dinokit.checkpoints.load import load_model
from dinokit.data.store import StreamedSquares
from dinokit.errors import UserError
from dinokit.pretrain.checkpointing import list_checkpoints
from dinokit.pretrain.loop import Pretraining, Status
from dinokit.pretrain.pictures import open_training_pictures
from dinokit.pretrain.recipe import Recipe
from dinokit.pretrain.recipe_file import recipe_from_dict

PICTURES = Path(__file__).parents[1] / "pictures"


def small_recipe(**values: object) -> Recipe:
    base = {
        "crops": {"global_size": 32, "local_size": 16, "local_number": 2},
        "run": {"batch": 4, "steps": 6, "picture_side": 48, "log_every": 2, "save_every": 4},
        "optimizer": {"warmup": 2},
        "coding_rate": {"hidden": 64, "projection": 32},
        "dinov3": {"hidden": 64, "bottleneck": 32, "prototypes": 64, "patch_prototypes": 64},
    }
    return recipe_from_dict(values, recipe_from_dict(base))


def start(recipe: Recipe, folder: Path, init: str | None = None) -> Pretraining:
    pictures = open_training_pictures([str(PICTURES)], recipe.run)
    model = load_model(init or "random:dinokit_vitt16:1", **({} if init else {"layer_scale": 0.1}))
    return Pretraining(recipe, pictures, folder, model, init, torch.device("cpu"))


def checkpoint(folder: Path) -> dict[str, torch.Tensor]:
    """Networks and moments of the latest checkpoint."""
    latest = list_checkpoints(folder)[-1]
    return load_file(latest / "networks.safetensors") | load_file(latest / "optimizer.safetensors")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_model(folder).network.state_dict())


@pytest.mark.parametrize("objective", ["coding-rate", "dinov3"])
def test_a_run_learns_and_leaves_a_model_that_loads(tmp_path: Path, objective: str) -> None:
    statuses: list[Status] = []
    run = start(small_recipe(objective=objective), tmp_path)
    before = {key: value.clone() for key, value in run.networks.teacher.backbone.state_dict().items()}
    run.run(statuses.append)
    assert [status.step for status in statuses] == [2, 4, 6]
    after = weights(tmp_path)
    moved = [key for key, value in after.items() if not torch.equal(value, before[key])]
    assert len(moved) > 100
    assert all(torch.isfinite(value).all() for value in after.values())
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert {"loss", "rank", "variance", "lr", "images_per_second"} <= lines[-1].keys()
    info = load_model(tmp_path).info
    assert (info.image_size, info.map_layer) == (32, 2 * info.spec.depth // 3)


INTERRUPTED = {
    "coding rate": {"drop_path": 0.2},
    "prototypes": {"objective": "dinov3", "drop_path": 0.2},
    "no loss on patches": {"coding_rate": {"patch_weight": 0.0, "match_weight": 0.0}},
    "patches later": {"coding_rate": {"patch_after": 4}},
    "prototypes without patches": {"objective": "dinov3", "dinov3": {"patch_weight": 0.0}},
    "stages and cool-down": {
        "stages": [{"steps": 3, "global_size": 48, "local_size": 32}],
        "optimizer": {"cooldown": 2},
    },
    "streamed pictures": {"run": {"memory_limit": 0.0}},
}


@pytest.mark.parametrize("kind", INTERRUPTED)
def test_a_stopped_run_goes_on_as_if_it_had_not_been_stopped(tmp_path: Path, kind: str) -> None:
    recipe = recipe_from_dict(INTERRUPTED[kind], small_recipe())
    start(recipe, tmp_path / "whole").run()
    for stop in (2, 3, 5):  # before, at and after the border of the stages; in the cool-down
        run = start(recipe, tmp_path / "stopped")
        assert all(isinstance(part, StreamedSquares) for part in run.pictures.parts) == (kind == "streamed pictures")
        run.run(stepped=lambda step, run=run, stop=stop: run.stop() if step == stop else None)
        assert run.step == stop
    start(recipe, tmp_path / "stopped").run()
    whole, stopped = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "stopped")
    assert whole.keys() == stopped.keys()
    for key, value in whole.items():
        assert torch.equal(value, stopped[key]), key


def test_the_log_holds_no_step_twice_when_work_was_lost(tmp_path: Path) -> None:
    start(small_recipe(), tmp_path).run()
    shutil.rmtree(list_checkpoints(tmp_path)[-1])
    lost = list_checkpoints(tmp_path)[-1]
    assert lost.name == "step-00000004"
    with open(tmp_path / "log.jsonl", "a") as log:
        log.write('{"step": 6, "lo')
    start(small_recipe(), tmp_path).run()
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 6]


def test_only_the_two_latest_checkpoints_are_kept(tmp_path: Path) -> None:
    start(small_recipe(run={"save_every": 1}), tmp_path).run()
    assert [folder.name for folder in list_checkpoints(tmp_path)] == ["step-00000005", "step-00000006"]


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    start(small_recipe(), tmp_path).run()
    broken = list_checkpoints(tmp_path)[-1] / "networks.safetensors"
    broken.write_bytes(broken.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"step-00000006 cannot be resumed.*delete that folder"):
        start(small_recipe(), tmp_path)


def test_a_run_of_other_heads_is_told_how_to_go_on(tmp_path: Path) -> None:
    start(small_recipe(), tmp_path).run()
    with pytest.raises(UserError, match=r"cannot be resumed.*the recipe that the run was started with, or .*--init"):
        start(small_recipe(coding_rate={"hidden": 24}), tmp_path)


def test_init_takes_backbone_and_heads_also_at_another_crop_size(tmp_path: Path) -> None:
    start(small_recipe(), tmp_path / "first").run()
    recipe = small_recipe(crops={"global_size": 48, "local_size": 32})
    run = start(recipe, tmp_path / "second", str(tmp_path / "first"))
    for key, value in weights(tmp_path / "first").items():
        assert torch.equal(run.networks.student.backbone.state_dict()[key], value)
    heads = load_file(tmp_path / "first" / "model" / "heads.safetensors")
    for key, value in heads.items():
        assert torch.equal(run.networks.student.heads.state_dict()[key], value), key
    run.run()
    assert load_model(tmp_path / "second").info.image_size == 48


@pytest.mark.parametrize("save_every", [1, 100])
def test_numbers_that_are_no_numbers_end_the_run_with_a_remedy(tmp_path: Path, save_every: int) -> None:
    run = start(small_recipe(optimizer={"warmup": 0}, run={"save_every": save_every}), tmp_path)
    with torch.no_grad():
        run.networks.student.backbone.cls_token.fill_(float("nan"))
    with pytest.raises(UserError, match=r"loss is nan at step 2.*lower optimizer\.lr"):
        run.run()
    assert not (tmp_path / "model").exists()


def test_a_gradient_that_is_no_number_changes_nothing(tmp_path: Path) -> None:
    run = start(small_recipe(), tmp_path)
    before = {key: value.clone() for key, value in run.networks.state_dict().items()}
    poison = run.networks.student.backbone.cls_token.register_hook(lambda gradient: gradient * float("inf"))
    assert run.train_step() == {}
    for key, value in run.networks.state_dict().items():
        assert torch.equal(value, before[key]), key
    poison.remove()
    assert run.train_step()
    assert run.monitor.healthy


def test_a_step_broken_off_halfway_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start(small_recipe(), tmp_path / "whole").run()
    run = start(small_recipe(run={"save_every": 2}), tmp_path / "broken")
    update = run.networks.update_teacher

    def interrupted(momentum: float) -> None:
        if run.step == 3:
            raise KeyboardInterrupt
        update(momentum)

    monkeypatch.setattr(run.networks, "update_teacher", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert [folder.name for folder in list_checkpoints(tmp_path / "broken")] == ["step-00000002"]
    start(small_recipe(), tmp_path / "broken").run()
    broken = weights(tmp_path / "broken")
    for key, value in weights(tmp_path / "whole").items():
        assert torch.equal(value, broken[key]), key


@pytest.mark.parametrize("objective", ["coding-rate", "dinov3"])
def test_there_may_be_no_local_crops_and_no_masks(tmp_path: Path, objective: str) -> None:
    run = start(small_recipe(objective=objective, crops={"local_number": 0}, masks={"probability": 0.0}), tmp_path)
    run.run()
    assert run.step == 6


def test_the_cosine_ends_at_its_end(tmp_path: Path) -> None:
    recipe = small_recipe(optimizer={"schedule": "cosine", "lr": 1e-3, "lr_end": 1e-4}, run={"log_every": 1})
    start(recipe, tmp_path).run()
    rates = [json.loads(line)["lr"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rates[1] == pytest.approx(1e-3)
    assert rates[1:] == sorted(rates[1:], reverse=True)
    assert rates[-1] == pytest.approx(1e-4)


def test_the_betas_can_change_on_the_way(tmp_path: Path) -> None:
    start(small_recipe(), tmp_path).run()
    run = start(small_recipe(optimizer={"beta2": 0.95}), tmp_path)
    assert run.step == 6
    assert {group["betas"] for group in run.optimizer.param_groups} == {(0.9, 0.95)}


def test_steps_with_larger_crops_count_for_more_of_the_time_left() -> None:
    stages = [{"steps": 10, "global_size": 32, "local_size": 16}]
    recipe = small_recipe(stages=stages, crops={"global_size": 64, "local_size": 32}, run={"steps": 15})
    small, large = 8 * 5 + 3 * 2 * 2, 8 * 17 + 3 * 2 * 5  # tokens: class and patches, of two global and two local crops
    assert recipe.steps_left(10) == pytest.approx(5 * large / small)
    assert recipe.steps_left(4) == pytest.approx(6 + 5 * large / small)
    assert (recipe.steps_left(11), recipe.steps_left(15)) == (4, 0)


def test_stages_change_the_crop_size_on_the_way(tmp_path: Path) -> None:
    recipe = small_recipe(stages=[{"steps": 3, "global_size": 48, "local_size": 32}])
    run = start(recipe, tmp_path)
    sizes = []
    for step in range(5):
        run.step = step
        sizes.append(run.make_batch()[0].global_views.shape[-1])
    assert sizes == [48, 48, 48, 32, 32]


def test_patch_losses_begin_when_they_should_and_look_at_the_other_crop(tmp_path: Path) -> None:
    run = start(small_recipe(coding_rate={"patch_after": 2, "hidden": 64, "projection": 32}), tmp_path)
    patch_losses = {"patch_distance", "patch_expansion", "match_distance", "match_expansion"}
    found = []
    for _ in range(3):
        numbers = run.train_step()
        found.append(patch_losses & numbers.keys())
        assert 0 < numbers["spread"] < 1, "the monitor watches it"
        assert run.make_batch()[1].masks.any() == (run.step >= 2), "crops are masked for these losses alone"
        run.step += 1
    assert found == [set(), set(), patch_losses]
    crops, masks = run.make_batch()
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand_as(crops.global_boxes)
    upright = torch.zeros_like(crops.global_flips)
    unmasked = replace(masks, masks=torch.zeros_like(masks.masks))
    same = replace(crops, global_views=crops.global_views[:1].expand_as(crops.global_views))
    distances = []
    for chosen in (same, crops):
        chosen = replace(chosen, global_boxes=whole, global_flips=upright)
        run.networks.student.load_state_dict(run.networks.teacher.state_dict())
        with torch.autocast(run.device.type, run.dtype, enabled=run.dtype != torch.float32):
            losses, _ = run.networks(chosen, unmasked, run.schedules.at(run.step))
        distances.append(float(losses.parts["match_distance"]))
    assert distances[0] == pytest.approx(0, abs=1e-3)
    assert distances[1] > 10 * distances[0] + 1e-3


def test_the_shapes_of_products_do_not_vary_from_step_to_step(tmp_path: Path) -> None:
    """Each new shape of a matrix product costs memory that is never freed; and heads that have no loss do not run."""
    run = start(small_recipe(coding_rate={"patch_after": 2}), tmp_path)
    shapes: dict[str, set[tuple[int, ...]]] = {}
    for network in (run.networks.student, run.networks.teacher):
        for name, module in network.named_modules():
            if isinstance(module, torch.nn.Linear):
                seen = shapes.setdefault(name, set())
                module.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.add(tuple(inputs[0].shape)))
    for step in range(20):
        run.train_step()
        run.step += 1
        if step == 1:
            assert not any(seen for name, seen in shapes.items() if "ibot_head" in name)
    for name, seen in shapes.items():
        assert 0 < len(seen) <= 2, f"{name}: {seen}"  # global and local, global and all, masked and matched


def test_the_monitors_signs_outlive_the_process(tmp_path: Path) -> None:
    run = start(small_recipe(), tmp_path)
    run.monitor.signs["rank"] = 4
    run.run()
    assert start(small_recipe(), tmp_path).monitor.signs == {}  # healthy features took it back
    run = start(small_recipe(), tmp_path / "other")
    run.train_step()
    run.step, run.monitor.signs["rank"] = 1, 1
    run.save()
    again = start(small_recipe(), tmp_path / "other")
    assert again.monitor.signs == {"rank": 1}
    assert not again.other_pictures
