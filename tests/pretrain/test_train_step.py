"""One whole training step equals the published code: losses, gradients, clipping, AdamW, teacher update."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers_golden import load_golden
from torch import Tensor

from dinokit.backbones.vit import VisionTransformer, ViTSpec
from dinokit.pretrain.crops import Crops
from dinokit.pretrain.losses.gram import gram_loss, resize_target
from dinokit.pretrain.masks import MaskBatch
from dinokit.pretrain.objectives import Dinov3Objective, Dinov3Settings, Losses
from dinokit.pretrain.optimizer import apply_schedule, build_optimizer, clip_gradients, parameter_groups
from dinokit.pretrain.prototype_head import PrototypeHead
from dinokit.pretrain.student_teacher import Network, StudentTeacher

TENSORS, FACTS = load_golden("train_step")
BATCH = 3
SPEC = ViTSpec(32, 2, 1, 64, patch_size=8, registers=2, local_cls_norm=True)
SETTINGS = Dinov3Settings(48, 40, unit_prototypes=False, teacher_temperature=0.07, teacher_temperature_warmup=0)


class GoldenObjective(Dinov3Objective):
    """The published objective with the head sizes of the reference run, which differ between DINO and iBOT."""

    def heads(self, width: int) -> torch.nn.ModuleDict:
        return torch.nn.ModuleDict(
            {"dino_head": PrototypeHead(width, 48, 24, 16), "ibot_head": PrototypeHead(width, 40, 20, 12)}
        )


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
    losses, _ = networks(*golden_batch(), 0)
    assert_parts(losses, scenario)
    losses.total.backward()
    assert_gradients(networks, scenario)


def assert_parts(losses: Losses, scenario: str) -> None:
    facts = FACTS["scenarios"][scenario]
    expected = facts["loss_dict"]
    names = {"dino_local": "dino_local_crops_loss", "dino_global": "dino_global_crops_loss"}
    names |= {"koleo": "koleo_loss", "ibot": "ibot_loss"}
    for ours, theirs in names.items():
        assert losses.parts[ours].item() == pytest.approx(expected[theirs], abs=1e-5), f"{scenario}: {theirs}"
    assert losses.total.item() == pytest.approx(facts["total_loss"], abs=1e-5), scenario


def patches(backbone: VisionTransformer, pictures: Tensor, masks: Tensor | None = None) -> Tensor:
    tokens: Tensor = backbone(pictures, masks).tokens
    return tokens


def test_gram_term_and_lower_local_weight_equal_the_published_code() -> None:
    facts = FACTS["scenarios"]["gram_and_local_reweight"]
    networks = golden_networks(local_weight=facts["loss_dict"]["dino_local_loss_weight"])
    crops, masks = golden_batch()
    losses, _ = networks(crops, masks, 0)
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
    losses, _ = networks(crops, masks, 0)
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


def test_clipping_adamw_and_teacher_update_equal_the_published_code() -> None:
    facts = FACTS["scenarios"]["plain"]
    networks = golden_networks()
    losses, _ = networks(*golden_batch(), 0)
    losses.total.backward()
    for name, parameter in networks.student.named():
        expected = TENSORS.get(f"grad.{name}")
        if expected is not None:
            assert parameter.grad is not None
            assert (parameter.grad - expected).abs().max() <= 1e-5, f"gradient of {name}"
    norms = clip_gradients(networks.student.parts(), facts["clip"]["max_norm"])
    assert norms == pytest.approx(facts["clip"]["norms"], rel=1e-5)
    groups = parameter_groups(
        networks.student.named(), 2, layer_decay=0.9, patch_embed_multiplier=0.2, published_decay=True
    )
    optimizer = build_optimizer(groups)
    apply_schedule(optimizer, 1e-3, 0.04, 5e-4)
    optimizer.step()
    networks.update_teacher(facts["ema_momentum"])
    for which in ("student", "teacher"):
        network: Network = getattr(networks, which)
        for name, parameter in network.named():
            worst = (parameter - TENSORS[f"after.{which}.{name}"]).abs().max().item()
            assert worst <= 1e-5, f"{which} {name} after the step: off by {worst:.1e}"
