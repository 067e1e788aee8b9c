"""Losses and targets are those of the published code, values and gradients; and they survive bad moments."""

import math
from collections.abc import Callable

import pytest
import torch
from helpers_golden import load_golden
from torch import Tensor

from dinokit.pretrain.losses.coding_rate import alignment, coding_rate, spread
from dinokit.pretrain.losses.dino import dino_loss
from dinokit.pretrain.losses.gram import Negatives, gram_loss, resize_target
from dinokit.pretrain.losses.ibot import ibot_loss
from dinokit.pretrain.losses.koleo import koleo_loss
from dinokit.pretrain.losses.sinkhorn import sinkhorn_knopp

GOLDEN, _ = load_golden("losses")


def assert_matches(name: str, loss: Callable[[Tensor], Tensor], student: Tensor) -> None:
    """Value within 1e-5, gradient within 1e-5 per entry or 1e-3 of its norm (for huge gradients)."""
    student = student.clone().requires_grad_()
    value = loss(student)
    value.backward()
    assert student.grad is not None
    expected = GOLDEN[f"{name}.grad"]
    assert abs(value.item() - GOLDEN[f"{name}.loss"].item()) < 1e-5, f"{name}: the loss differs"
    difference = student.grad - expected
    close = float(difference.abs().max()) < 1e-5 or float(difference.norm() / expected.norm()) < 1e-3
    assert close, f"{name}: training would follow another gradient"


def assert_near(got: Tensor, name: str, tolerance: float = 1e-5) -> None:
    worst = float((got - GOLDEN[name]).abs().max())
    assert worst < tolerance, f"{name}: differs by {worst:.2e}"


@pytest.mark.parametrize("temperature", [0.04, 0.07])
@pytest.mark.parametrize("iterations", [1, 3, 5])
def test_sinkhorn_gives_the_published_targets_for_class_tokens(temperature: float, iterations: int) -> None:
    targets = sinkhorn_knopp(GOLDEN["sk_dino.logits"], temperature, iterations)
    assert_near(targets, f"sk_dino.out.temp{temperature}.it{iterations}")


@pytest.mark.parametrize("temperature", [0.04, 0.07])
@pytest.mark.parametrize("count", [1, 5, 11])
def test_sinkhorn_gives_the_published_targets_for_masked_patches(temperature: float, count: int) -> None:
    targets = sinkhorn_knopp(GOLDEN[f"sk_ibot.n{count}.logits"], temperature)
    assert_near(targets, f"sk_ibot.n{count}.out.temp{temperature}")


@pytest.mark.parametrize("count", [5, 50])
def test_sinkhorn_needs_no_count_of_masked_patches(count: int) -> None:
    # the published code is given a count, right (5) or wrong (50); it cancels
    assert_near(sinkhorn_knopp(GOLDEN["sk_ibot.wrongB.logits"], 0.07), f"sk_ibot.wrongB.out_B{count}")


@pytest.mark.parametrize("scale", [0.0, 1.0, 100.0, 1e4])
def test_sinkhorn_rows_sum_to_one_however_large_the_prototypes_grow(scale: float) -> None:
    logits = scale * torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    logits[3] -= 50 * scale  # a picture that no prototype likes
    targets = sinkhorn_knopp(logits, 0.04)
    assert bool(targets.isfinite().all())
    assert float((targets.sum(1) - 1).abs().max()) < 1e-5


def test_sinkhorn_uses_all_prototypes_evenly() -> None:
    logits = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    logits[:, 0] += 1  # one prototype that every picture prefers: the collapse that balancing prevents
    mass = sinkhorn_knopp(logits, 0.5, iterations=30).sum(0)
    assert torch.allclose(mass, torch.full((16,), 4.0), atol=1e-2)


def test_sinkhorn_stays_in_float32_under_autocast_and_takes_no_rows() -> None:
    logits = GOLDEN["sk_dino.logits"]
    with torch.autocast("cpu", torch.bfloat16):
        assert_near(sinkhorn_knopp(logits, 0.04), "sk_dino.out.temp0.04.it3")
    assert sinkhorn_knopp(logits[:0], 0.04).shape == (0, 24)
    with pytest.raises(ValueError, match="temperature"):
        sinkhorn_knopp(logits, 0.0)


@pytest.mark.parametrize("crops", ["global", "local"])
@pytest.mark.parametrize("ignore", [False, True])
def test_dino_loss(crops: str, ignore: bool) -> None:
    targets = GOLDEN["dino.teacher_probs"]
    name = f"dino.{crops}" + ("_ignore_diag" if ignore else "")
    assert_matches(name, lambda s: dino_loss(s, targets, ignore_diagonal=ignore), GOLDEN[f"dino.student_{crops}"])


def test_dino_loss_refuses_a_single_view_compared_with_itself() -> None:
    with pytest.raises(ValueError, match="no pair"):
        dino_loss(torch.zeros(1, 2, 4), torch.ones(1, 2, 4) / 4, ignore_diagonal=True)


@pytest.mark.parametrize("kind", ["auto_weight", "given_weight", "custom_weight"])
def test_ibot_loss(kind: str) -> None:
    weights = torch.linspace(0.1, 1, 9) if kind == "custom_weight" else GOLDEN["ibot.masks_weight"]
    teacher = GOLDEN["ibot.teacher_masked"]
    assert_matches(f"ibot.masked.{kind}", lambda s: ibot_loss(s, teacher, weights, 4), GOLDEN["ibot.student_masked"])


def test_ibot_loss_on_padded_tokens() -> None:
    teacher, weights = GOLDEN["ibot.padded.teacher"][:9], GOLDEN["ibot.masks_weight"]
    assert_matches("ibot.padded", lambda s: ibot_loss(s[:9], teacher, weights, 4), GOLDEN["ibot.padded.student"])


def test_ibot_loss_on_full_maps_is_the_loss_on_the_chosen_tokens() -> None:
    masks, teacher, weights = (GOLDEN[f"ibot.{k}"] for k in ("masks", "full.teacher", "masks_weight"))
    assert_matches("ibot.full", lambda s: ibot_loss(s[masks], teacher[masks], weights, 4), GOLDEN["ibot.full.student"])


def test_a_batch_without_masks_has_no_patch_loss() -> None:
    none = torch.zeros(0, 8, requires_grad=True)
    loss = ibot_loss(none, torch.zeros(0, 8), torch.zeros(0), 4)
    loss.backward()
    assert loss.item() == 0


@pytest.mark.parametrize("neighbours", [1, 2, 3])
def test_koleo_with_neighbours(neighbours: int) -> None:
    assert_matches(f"koleo.dist_top{neighbours}", lambda x: koleo_loss(x, neighbours), GOLDEN["koleo.x"])


def test_koleo() -> None:
    assert_matches("koleo", koleo_loss, GOLDEN["koleo.x"])


def test_koleo_with_two_equal_pictures_in_the_batch() -> None:
    features = GOLDEN["koleo.dup_x"].clone().requires_grad_()
    value = koleo_loss(features)
    value.backward()
    assert features.grad is not None
    assert abs(value.item() - GOLDEN["koleo.dup_loss"].item()) < 1e-5
    assert_near(features.grad, "koleo.dup_grad")


def test_koleo_says_when_a_batch_is_too_small() -> None:
    with pytest.raises(ValueError, match="more than 1 pictures, got 1"):
        koleo_loss(torch.ones(1, 4))


NEGATIVES: dict[str, Negatives] = {
    "keep": "keep",
    "remove_neg": "remove",
    "remove_only_teacher_neg": "remove_target",
}


@pytest.mark.parametrize("norm", ["norm", "nonorm"])
@pytest.mark.parametrize("published", list(NEGATIVES))
@pytest.mark.parametrize("level", ["img", "batch", "masked", "unmasked"])
def test_gram_loss(norm: str, published: str, level: str) -> None:
    masks, target = GOLDEN["gram.masks"], GOLDEN["gram.teacher"]
    chosen = {"masked": masks, "unmasked": ~masks}.get(level)

    def loss(student: Tensor) -> Tensor:
        pair = (student, target) if chosen is None else (student[chosen], target[chosen])
        return gram_loss(*pair, normalize=norm == "norm", per_image=level == "img", negatives=NEGATIVES[published])

    assert_matches(f"gram.{norm}.{published}.{level}", loss, GOLDEN["gram.student"])


def test_gram_remove_common_forgives_what_is_negative_twice_and_tokens_need_pictures() -> None:
    opposite, less_so = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]]), torch.tensor([[[1.0, 0.0], [-0.6, 0.8]]])
    assert float(gram_loss(opposite, less_so, negatives="remove_common")) == pytest.approx(0, abs=1e-7)
    assert float(gram_loss(opposite, less_so, negatives="remove_target")) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="per_image=False"):
        gram_loss(opposite[0], less_so[0])


@pytest.mark.parametrize("method", ["bicubic", "bilinear"])
@pytest.mark.parametrize("antialias", [False, True])
def test_gram_target_is_resized_to_the_grid_of_the_student(method: str, antialias: bool) -> None:
    tokens = GOLDEN["gram_resize.teacher_tokens"]
    resized = resize_target(tokens, (6, 6), (3, 3), method=method, antialias=antialias)  # type: ignore[arg-type]
    assert_near(resized, f"gram_resize.{method}.antialias{int(antialias)}")


def test_gram_target_on_a_wide_grid_keeps_rows_and_columns_apart() -> None:
    rows = torch.arange(4.0).repeat_interleave(8)[None, :, None]  # [1, 4*8, 1]: the value is the row
    resized = resize_target(rows, (4, 8), (2, 4), method="bilinear").reshape(2, 4)
    assert torch.allclose(resized, torch.tensor([[0.5], [2.5]]).expand(2, 4))


@pytest.mark.parametrize(("samples", "width"), [(6, 16), (16, 6), (8, 8)])
def test_coding_rate_is_the_log_determinant_on_either_side(samples: int, width: int) -> None:
    features = torch.randn(samples, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    features.requires_grad_()
    unit = features / features.norm(dim=1, keepdim=True)
    expected = torch.linalg.slogdet(torch.eye(width) + unit.T @ unit * (width / (samples * 0.5)))[1] / 2
    (wanted,) = torch.autograd.grad(expected, features)
    value = coding_rate(features)
    (gradient,) = torch.autograd.grad(value, features)
    assert value.item() == pytest.approx(expected.item(), abs=1e-5)
    assert torch.allclose(gradient, wanted, atol=1e-5)


def test_coding_rate_falls_when_features_collapse_and_shows_nan() -> None:
    spread, collapsed = torch.eye(8), torch.ones(8, 8)
    assert float(coding_rate(spread)) == pytest.approx(4 * math.log(3), abs=1e-5)  # all 8 directions: 8/2 ln(1 + 2)
    assert float(coding_rate(collapsed)) == pytest.approx(0.5 * math.log(17), abs=1e-5)  # one direction: ln(1 + 16)/2
    assert math.isnan(float(coding_rate(torch.full((8, 16), math.nan))))


@pytest.mark.parametrize(("samples", "width"), [(4, 16), (16, 4), (8, 8)])
def test_spread_is_0_for_equal_features_and_1_for_those_as_far_apart_as_can_be(samples: int, width: int) -> None:
    apart = torch.eye(max(samples, width))[:samples, :width] if samples <= width else torch.eye(width).repeat(4, 1)
    for features, expected in ((torch.ones(samples, width), 0.0), (apart, 1.0)):
        assert float(spread(coding_rate(features), samples, width)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("ignore", [False, True])
def test_alignment_is_the_mean_cosine_of_the_pairs(ignore: bool) -> None:
    generator = torch.Generator().manual_seed(2)
    student, teacher = torch.randn(3, 5, 8, generator=generator), torch.randn(2, 5, 8, generator=generator)
    pairs = [(s, t) for s in range(3) for t in range(2) if not (ignore and s == t)]
    cosines = [torch.cosine_similarity(student[s], teacher[t], dim=-1).mean() for s, t in pairs]
    value = alignment(student, teacher, ignore_diagonal=ignore)
    assert float(value) == pytest.approx(float(torch.stack(cosines).mean()), abs=1e-6)


def test_losses_keep_float32_under_autocast() -> None:
    student, teacher = GOLDEN["gram.student"], GOLDEN["gram.teacher"]
    with torch.autocast("cpu", torch.bfloat16):
        assert_near(gram_loss(student, teacher), "gram.norm.keep.img.loss")
        assert_near(koleo_loss(GOLDEN["koleo.x"]), "koleo.loss")
        rate = coding_rate(GOLDEN["koleo.x"])
    assert float(rate) == pytest.approx(float(coding_rate(GOLDEN["koleo.x"])), abs=1e-6)
