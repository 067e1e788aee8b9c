"""Networks for pictures of other channels than they were trained with, as the documents say them."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints.networks import SPECS, random_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dinokit.backbones.features import Features
from dinokit.checkpoints.channels import fit_channels
from dinokit.checkpoints.export import export_model
from dinokit.checkpoints.load import load_model
from dinokit.checkpoints.model import AssumptionWarning, LoadedModel, override
from dinokit.errors import UserError
from dinokit.images.normalize import IMAGENET, SATELLITE, normalize

pytestmark = pytest.mark.usefixtures("one_thread")
KINDS = ["mlp", "convnext"]


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    model = random_model(SPECS[request.param])
    export_model(tmp_path, model.network.state_dict(), model.info)
    return tmp_path


def grey() -> Tensor:
    return torch.randint(0, 256, (2, 1, 64, 64), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)


@torch.no_grad()
def features(model: LoadedModel, pictures: Tensor) -> Features:
    found: Features = model.network.eval()(normalize(pictures, model.info.statistics))
    return found


def assert_same(one: Features, other: Features) -> None:
    assert (one.cls - other.cls).abs().max() <= 2e-5
    assert (one.patches - other.patches).abs().max() <= 2e-5


@pytest.mark.parametrize("given", [{}, {"mean": [0.5], "std": [0.5]}, {"mean": [0.1], "std": [0.9]}])
def test_a_grey_picture_gives_what_it_gave_as_three_equal_channels(given: dict[str, Any], folder: Path) -> None:
    colour, folded = load_model(folder), load_model(folder, in_channels=1, **given)
    assert_same(features(folded, grey()), features(colour, grey().expand(-1, 3, -1, -1)))
    assert folded.info.spec.in_channels == 1
    assert folded.info.statistics.mean == pytest.approx(given.get("mean", [0.45]))


@settings(max_examples=20, deadline=None)
@given(
    channels=st.integers(2, 4),
    mean=st.floats(-1, 2),
    std=st.floats(0.05, 3),
    means=st.lists(st.floats(0, 1), min_size=4, max_size=4),
    stds=st.lists(st.floats(0.05, 1), min_size=4, max_size=4),
)
def test_folding_is_exact_for_any_statistics(
    channels: int, mean: float, std: float, means: list[float], stds: list[float]
) -> None:
    model = random_model(SPECS["mlp"])
    before = override(
        model.info, {"in_channels": channels, "mean": means[:channels], "std": stds[:channels]}, "the test"
    )
    after = override(before, {"in_channels": 1, "mean": [mean], "std": [std]}, "the test")
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(8, channels, 4, 4, generator=generator)
    bias, pixels = torch.randn(8, generator=generator), torch.rand(1, 1, 4, 4, generator=generator)
    folded = fit_channels({"patch_embed.proj.weight": weight, "patch_embed.proj.bias": bias}, before, after)

    def product(statistics: Any, weight: Tensor, bias: Tensor) -> Tensor:
        m, s = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (statistics.mean, statistics.std))
        return (weight.double() * (pixels.double() - m) / s).sum(dim=(1, 2, 3)) + bias.double()

    ours = product(after.statistics, folded["patch_embed.proj.weight"], folded["patch_embed.proj.bias"])
    expected = product(before.statistics, weight, bias)
    scale = (weight.abs() / min(stds)).sum().item() + expected.abs().max().item()
    assert (ours - expected).abs().max().item() <= 1e-6 * scale


@pytest.mark.parametrize("channels", [2, 4, 5, 6])
def test_weights_are_repeated_in_order_and_scaled(channels: int, folder: Path) -> None:
    before, after = load_model(folder), load_model(folder, in_channels=channels)
    name = next(key for key in before.network.state_dict() if key.endswith(("embed.proj.weight", "layers.0.0.weight")))
    old, new = before.network.state_dict()[name], after.network.state_dict()[name]
    for channel in range(channels):
        torch.testing.assert_close(new[:, channel], old[:, channel % 3] * (3 / channels))
    assert after.info.statistics.mean == tuple(before.info.statistics.mean[c % 3] for c in range(channels))
    assert features(after, torch.zeros(1, channels, 64, 64, dtype=torch.uint8)).cls.isfinite().all()


@pytest.mark.parametrize("channels", [2, 4, 7])
def test_weights_for_several_channels_are_those_of_timm(channels: int) -> None:
    from timm.models._manipulate import adapt_input_conv

    model = random_model(SPECS["mlp"])
    state = model.network.state_dict()
    ours = fit_channels(state, model.info, override(model.info, {"in_channels": channels}, "the test"))
    theirs = adapt_input_conv(channels, state["patch_embed.proj.weight"].clone())
    torch.testing.assert_close(ours["patch_embed.proj.weight"], theirs)


def test_an_adapted_network_is_saved_and_loaded_as_such(folder: Path, tmp_path: Path) -> None:
    model = load_model(folder, in_channels=5, mean=[0.1, 0.2, 0.3, 0.4, 0.5], std=[0.2] * 5)
    export_model(tmp_path / "again", model.network.state_dict(), model.info)
    again = load_model(tmp_path / "again")
    assert again.info.statistics == model.info.statistics
    assert again.info.spec == model.info.spec
    assert_same(features(load_model(tmp_path / "again", in_channels=1), grey()),
                features(again, grey().expand(-1, 5, -1, -1)))  # fmt: skip


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"in_channels": 0}, "in_channels is 0"),
        ({"in_channels": 1000}, "in_channels is 1000"),
        ({"in_channels": "3"}, "in_channels is '3'"),
        ({"in_channels": 4, "mean": [0.5, 0.5, 0.5]}, "mean must be four numbers: give one for each channel"),
        ({"in_channels": 1, "std": [0.0]}, "std is"),
        ({"mean": [0.5]}, "mean must be three numbers"),
    ],
)
def test_impossible_channels(given: dict[str, Any], said: str, folder: Path) -> None:
    with pytest.raises(UserError, match=said):
        load_model(folder, **given)


def test_statistics_follow_the_name_and_can_be_given(tmp_path: Path) -> None:
    model = random_model(SPECS["mlp"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AssumptionWarning)
        for stem, expected in (("mine_sat493m", SATELLITE), ("mine", IMAGENET)):
            torch.save(model.network.state_dict(), tmp_path / f"{stem}.pth")
            assert load_model(tmp_path / f"{stem}.pth").info.statistics == expected
        given = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
        assert load_model(tmp_path / "mine.pth", **given).info.statistics.mean == (0.1, 0.2, 0.3)
    assert load_model("random:dinov3_convnext_tiny", in_channels=4).info.statistics.std == (0.229, 0.224, 0.225, 0.229)
