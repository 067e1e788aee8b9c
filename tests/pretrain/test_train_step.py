"""One whole training step equals the published code: losses, gradients, clipping, AdamW, teacher update."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_golden import load_golden
from torch import Tensor

from dinokit.backbones.vit import VisionTransformer, ViTSpec
from dinokit.checkpoints.load import load_model
from dinokit.checkpoints.model import LoadedModel
from dinokit.pretrain.crops import Crops, CropSettings
from dinokit.pretrain.dinov3_objective import Dinov3Objective, Dinov3Settings
from dinokit.pretrain.loop import Pretraining
from dinokit.pretrain.losses.gram import gram_loss, resize_target
from dinokit.pretrain.masks import MaskBatch
from dinokit.pretrain.pictures import open_training_pictures
from dinokit.pretrain.prototype_head import PrototypeHead
from dinokit.pretrain.recipe import OptimizerSettings, Recipe, RunSettings, TeacherSettings
from dinokit.pretrain.schedules import Ramp
from dinokit.pretrain.student_teacher import Network, StudentTeacher

TENSORS, FACTS = load_golden("train_step")
BATCH = 3
SPEC = ViTSpec(32, 2, 1, 64, patch_size=8, registers=2, local_cls_norm=True)
SETTINGS = Dinov3Settings(48, 40, unit_prototypes=False, teacher_temperature=0.07, teacher_temperature_warmup=0)
NOW = Recipe(dinov3=SETTINGS).schedules().at(0)


class GoldenObjective(Dinov3Objective):
    """The published objective with the head sizes of the reference run, which differ between DINO and iBOT."""

    def heads(self, width: int) -> torch.nn.ModuleDict:
        return torch.nn.ModuleDict(
            {"dino_head": PrototypeHead(width, 48, 24, 16), "ibot_head": PrototypeHead(width, 40, 20, 12)}
        )


class GoldenRecipe(Recipe):
    def build_objective(self) -> GoldenObjective:
        return GoldenObjective(self.dinov3)


def load_state(network: Network, prefix: str) -> None:
    for part, module in network.parts().items():
        start = f"{prefix}.{part}."
        module.load_state_dict({key[len(start) :]: v for key, v in TENSORS.items() if key.startswith(start)})


def golden_networks(**changes: Any) -> StudentTeacher:
    networks = StudentTeacher(VisionTransformer(SPEC), GoldenObjective(replace(SETTINGS, **changes)))
    load_state(networks.student, "state.student")
    load_state(networks.teacher, "state.teacher")
    return networks


def golden_batch() -> tuple[Crops, MaskBatch]:
    views = [TENSORS["in.collated_global_crops"].unflatten(0, (2, BATCH))]
    views.append(TENSORS["in.collated_local_crops"].unflatten(0, (3, BATCH)))
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(2, BATCH, 4)
    upright = torch.zeros(2, BATCH, dtype=torch.bool)
    masks = MaskBatch(TENSORS["in.collated_masks"].bool(), TENSORS["in.mask_indices_list"], TENSORS["in.masks_weight"])
    return Crops(*views, whole, whole, upright, upright), masks


def assert_gradients(networks: StudentTeacher, scenario: str) -> None:
    found = {name: p.grad.norm().item() if p.grad is not None else 0.0 for name, p in networks.student.named()}
    for name, expected in FACTS["scenarios"][scenario]["grad_l2_norm"].items():
        assert found[name] == pytest.approx(expected, rel=1e-3, abs=1e-5), f"{scenario}: gradient of {name}"


SCENARIOS = {
    "plain": {},
    "no_ignore_diagonal": {"ignore_diagonal": False},
    "koleo_distributed_top2": {"koleo_neighbours": 2},
}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_losses_and_gradients_equal_the_published_code(scenario: str) -> None:
    networks = golden_networks(**SCENARIOS[scenario])
    losses, _ = networks(*golden_batch(), NOW)
    assert_parts({"loss": losses.total.detach(), **losses.parts}, scenario)
    losses.total.backward()
    assert_gradients(networks, scenario)


def assert_parts(numbers: Mapping[str, Any], scenario: str) -> None:
    facts = FACTS["scenarios"][scenario]
    expected = facts["loss_dict"] | {"loss": facts["total_loss"]}
    names = {"dino_local": "dino_local_crops_loss", "dino_global": "dino_global_crops_loss"}
    names |= {"koleo": "koleo_loss", "ibot": "ibot_loss", "loss": "loss"}
    for ours, theirs in names.items():
        assert float(numbers[ours]) == pytest.approx(expected[theirs], abs=1e-5), f"{scenario}: {theirs}"


def patches(backbone: VisionTransformer, pictures: Tensor, masks: Tensor | None = None) -> Tensor:
    tokens: Tensor = backbone(pictures, masks).tokens
    return tokens


def test_gram_term_and_lower_local_weight_equal_the_published_code() -> None:
    facts = FACTS["scenarios"]["gram_and_local_reweight"]
    networks = golden_networks(local_weight=facts["loss_dict"]["dino_local_loss_weight"])
    crops, masks = golden_batch()
    losses, _ = networks(crops, masks, NOW)
    gram_teacher = VisionTransformer(SPEC).eval()
    start = "state.gram_teacher.backbone."
    gram_teacher.load_state_dict({k[len(start) :]: v for k, v in TENSORS.items() if k.startswith(start)})
    with torch.no_grad():
        target = resize_target(patches(gram_teacher, TENSORS["in.collated_gram_teacher_crops"]), (6, 6), (4, 4))
    student = patches(networks.student.backbone, crops.global_views.flatten(0, 1), masks.masks)
    gram = gram_loss(student, target)
    assert gram.item() == pytest.approx(facts["loss_dict"]["gram_loss"], abs=1e-5)
    total = losses.total + facts["loss_dict"]["gram_loss_weight"] * gram
    assert total.item() == pytest.approx(facts["total_loss"], abs=1e-5)
    total.backward()
    assert_gradients(networks, "gram_and_local_reweight")


def test_gram_term_over_masked_tokens_of_the_batch_equals_the_published_code() -> None:
    facts = FACTS["scenarios"]["gram_masked_batch_ema"]
    networks = golden_networks()
    crops, masks = golden_batch()
    losses, _ = networks(crops, masks, NOW)
    pictures = crops.global_views.flatten(0, 1)
    with torch.no_grad():
        target = patches(networks.teacher.backbone, pictures)[masks.masks]
    student = patches(networks.student.backbone, pictures, masks.masks)[masks.masks]
    gram = gram_loss(student[None], target[None], per_image=False)
    assert gram.item() == pytest.approx(facts["loss_dict"]["gram_loss"], abs=1e-5)
    total = losses.total + facts["loss_dict"]["gram_loss_weight"] * gram
    assert total.item() == pytest.approx(facts["total_loss"], abs=1e-5)
    total.backward()
    assert_gradients(networks, "gram_masked_batch_ema")


def golden_run(folder: Path) -> Pretraining:
    """A run of the loop itself whose next step is the published one."""
    recipe = GoldenRecipe(
        dinov3=SETTINGS,
        crops=CropSettings(32, 16, 3),
        optimizer=OptimizerSettings(
            lr=1e-3,
            warmup=0,
            beta2=0.999,
            layer_decay=0.9,
            patch_embed_multiplier=0.2,
            published_decay=True,
            clip=FACTS["scenarios"]["plain"]["clip"]["max_norm"],
        ),
        teacher=TeacherSettings(momentum=0.9),
        run=RunSettings(batch=BATCH, picture_side=32, probe_every=0),
    )
    pictures = open_training_pictures([str(Path(__file__).parents[1] / "pictures")], recipe.run)
    info = replace(load_model("random:dinokit_vitt16").info, spec=SPEC)
    run = Pretraining(recipe, pictures, folder, LoadedModel(VisionTransformer(SPEC), info), device=torch.device("cpu"))
    run.dtype = torch.float32
    run.schedules = replace(run.schedules, last_layer_lr=Ramp(5e-4))  # as in the reference, which no recipe asks for
    load_state(run.networks.student, "state.student")
    load_state(run.networks.teacher, "state.teacher")
    return run


def test_a_step_of_the_loop_equals_the_published_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = FACTS["scenarios"]["plain"]
    run = golden_run(tmp_path)
    monkeypatch.setattr(run, "make_batch", golden_batch)
    numbers = run.train_step()
    assert_parts(numbers, "plain")
    for part, norm in facts["clip"]["norms"].items():
        assert numbers[f"gradient_{part}"] == pytest.approx(norm, rel=1e-5)
    for name, parameter in run.networks.student.named():
        expected = TENSORS.get(f"grad.{name}")
        if expected is not None:
            assert parameter.grad is not None
            clipped = expected * facts["clip"]["max_norm"] / facts["clip"]["norms"][name.split(".")[0]]
            assert (parameter.grad - clipped).abs().max() <= 1e-6, f"clipped gradient of {name}"
    for which in ("student", "teacher"):
        network: Network = getattr(run.networks, which)
        for name, parameter in network.named():
            worst = (parameter - TENSORS[f"after.{which}.{name}"]).abs().max().item()
            assert worst <= 1e-5, f"{which} {name} after the step: off by {worst:.1e}"
