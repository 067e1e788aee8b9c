"""Depth heads, conversion, losses and figures give what the published code gives."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from helpers_golden import GOLDEN, load_golden
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

import dinokit
from dinokit.backbones.features import Features, Grid
from dinokit.heads.dense import LinearDenseHead
from dinokit.heads.depth_bins import BinnedDepth, DepthBins
from dinokit.heads.depth_losses import gradient_loss, log_gradient_loss, scale_invariant_loss
from dinokit.heads.depth_plan import DepthPlan, plan_of_published, published_layers
from dinokit.heads.depth_scores import scale_and_shift, score_depth
from dinokit.heads.dpt import DPTHead
from dinokit.inference.layers import PictureFeatures
from dinokit.tasks.depth import DepthEstimator

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:.*does not say everything")]
PARTS = ("full", "nyu_eigen")
NAMES = {"a1": "delta1", "a2": "delta2", "a3": "delta3"}


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDEN / "metrics_depth.json").read_text())["depth"]
    return found


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[DepthEstimator, dict[str, Tensor]]:
    """The golden DPT head, from a file as it is published, on its backbone."""
    tensors, facts = load_golden("heads_dpt_depth")
    folder = tmp_path_factory.mktemp("published")
    save_file(part(tensors, "backbone."), folder / "backbone.safetensors")
    torch.save(part(tensors, "state."), folder / "head.pth")
    backbone = dinokit.load(folder / "backbone.safetensors", device="cpu", precision="fp32", norm_eps=1e-5)
    options = facts["depther_options"]
    limits = (options["min_depth"], options["max_depth"])
    layers = options["backbone_out_layers"]
    return DepthEstimator.from_published(folder / "head.pth", backbone, layers=layers, range=limits), tensors


def test_dpt_from_features(published: tuple[DepthEstimator, dict[str, Tensor]]) -> None:
    estimator, tensors = published
    maps = [(tensors[f"out.encoder.feat{i}"], torch.zeros(2, 32)) for i in range(4)]
    assert estimator.head is not None
    with torch.no_grad():
        found = estimator.head(maps)
    torch.testing.assert_close(found, tensors["out.depth"], rtol=1e-4, atol=1e-4)


def test_dpt_from_pictures(published: tuple[DepthEstimator, dict[str, Tensor]]) -> None:
    estimator, tensors = published
    padded = F.pad(tensors["in.image"], (6, 6, 2, 2))  # centred, to multiples of 16
    layers = estimator.backbone.intermediate(padded, estimator.look.layers)
    first = [Features(f.cls[:1], f.registers[:1], f.patches[:1], Grid(4, 6, ((64, 96),))) for f in layers]
    found = estimator.read(PictureFeatures(np.zeros((64, 96, 3), np.uint8), tuple(first)))
    assert np.abs(found.depth - tensors["out.depth"][0, 0].numpy()).max() < 1e-3  # of 100 m


@pytest.mark.parametrize("case", ["last_bn", "four_cls", "regression"])
def test_linear_heads(case: str) -> None:
    tensors, facts = load_golden("heads_depth_linear")
    options = facts["cases"][case]
    state = part(tensors, f"state.{case}.")
    limits = (options["min_depth"], options["max_depth"])
    plan = plan_of_published("linear", state, options["in_channels"], limits, case)
    assert (plan.bins.count, plan.class_token) == (options["n_output_channels"], options["use_cls_token"])
    head = plan.build(options["in_channels"])
    assert isinstance(head.network, LinearDenseHead)
    head.network.load_state_dict(state)
    feats = [tensors[f"in.{case}.feat{i}"] for i in range(len(options["in_channels"]))]
    maps = [(f, tensors.get(f"in.{case}.cls{i}", f[:, :, 0, 0])) for i, f in enumerate(feats)]
    with torch.no_grad():
        torch.testing.assert_close(head.eval()(maps), tensors[f"out.{case}.depth"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("spacing", ["linear", "log"])
@pytest.mark.parametrize("weighting", ["linear", "softmax", "sigmoid"])
def test_conversion_of_bins(spacing: Any, weighting: Any) -> None:
    tensors, facts = load_golden("heads_depth_linear")
    low, high = facts["strategies"]["min_depth"], facts["strategies"]["max_depth"]
    bins = DepthBins(16, (low, high), spacing, weighting)
    expected = tensors[f"out.strategies.{spacing}.{weighting}"]
    torch.testing.assert_close(bins.to_depth(tensors["in.strategies.logits"]), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("high", [10, 100])
def test_centres_of_bins(high: int) -> None:
    tensors, _ = load_golden("heads_depth_linear")
    torch.testing.assert_close(DepthBins(256, (0.001, high)).centres(), tensors[f"out.bins.linear_0.001_{high}_256"])


@pytest.mark.parametrize(
    ("name", "kind", "width", "layers"),
    [
        ("dpt_vit7b16_synthmix", "dpt", 4096, (9, 19, 29, 39)),
        ("dpt_vitl16_synthmix", "dpt", 1024, (4, 11, 17, 23)),
        ("linear_depth_vit7b16_nyu", "linear", 4096, (-1,)),
    ],
)
def test_keys_and_shapes_of_published_heads(name: str, kind: Any, width: int, layers: tuple[int, ...]) -> None:
    keys = json.loads((GOLDEN / "heads_keys_depth.json").read_text())[name]["keys"]
    assert published_layers(kind, layers[-1] + 1 if kind == "dpt" else 40) == layers
    with torch.device("meta"):
        state = {key: torch.empty(shape) for key, shape in keys.items()}
        head = plan_of_published(kind, state, [width] * len(layers), None, name).build([width] * len(layers))
    assert {key: list(value.shape) for key, value in head.network.state_dict().items()} == keys


@pytest.mark.parametrize("area", PARTS)
@pytest.mark.parametrize("align", [False, True])
def test_figures(figures: dict[str, Any], area: str, align: bool) -> None:
    true, found = (np.array(figures[name], np.float32) for name in ("ground_truth", "prediction"))
    known = np.array(figures[area]["valid_mask"]) > 0
    score = score_depth(found, np.where(known, true, 0), (figures["min_depth"], figures["max_depth"]), align)
    expected = figures[area]["least_squares" if align else "metrics"]
    for name, value in (expected["metrics"] if align else expected).items():
        assert getattr(score, NAMES.get(name, name)) == pytest.approx(value, rel=1e-4), name
    if align:
        assert scale_and_shift(found[known], true[known]) == pytest.approx((expected["scale"], expected["shift"]), 1e-4)


def test_losses(figures: dict[str, Any]) -> None:
    true, found = (torch.tensor(figures[name])[None] for name in ("ground_truth", "prediction"))
    known, expected = torch.tensor(figures["full"]["valid_mask"])[None] > 0, figures["losses_full_mask"]
    losses = {
        "sigloss": scale_invariant_loss(found[known], true[known]),
        "gradient_loss": gradient_loss(found, true, known),
        "gradient_log_loss": log_gradient_loss(found, true, known),
    }
    for name, value in losses.items():
        assert float(value) == pytest.approx(expected[name], rel=1e-4), name


def test_the_scale_does_not_matter_much_to_the_loss() -> None:
    wanted = torch.linspace(1, 5, 100)
    wrong_scale, wrong_form = scale_invariant_loss(wanted * 1.3, wanted), scale_invariant_loss(6 - wanted, wanted)
    assert wrong_scale < 0.2 < wrong_form
    assert scale_invariant_loss(wanted, wanted) < 1e-5


def test_a_linear_plan_is_a_linear_head_and_a_dpt_plan_a_dpt_head() -> None:
    assert isinstance(DepthPlan("dpt").build([32] * 4), BinnedDepth)
    assert isinstance(DepthPlan("dpt").build([32] * 4).network, DPTHead)
    plan = DepthPlan("dpt", DepthBins(8, (0.5, 3), "log", "softmax"))
    assert DepthPlan.of_settings(json.loads(json.dumps(plan.to_settings()))) == plan
