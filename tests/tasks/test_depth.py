"""Depth: a head learns from pictures with depth maps, and everything that can be wrong with them is said."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_depths import METRES, depth_folder
from helpers_labels import NAMES, PICTURES
from PIL import Image

import dinokit
from dinokit.cli.app import main
from dinokit.data.depths import read_depth
from dinokit.errors import UserError
from dinokit.heads.dpt import DPTShape
from dinokit.heads.fit import FitSettings
from dinokit.images.depth_picture import draw_depth
from dinokit.images.maps import MapFile
from dinokit.inference.cache import FeatureCache
from dinokit.tasks.depth import WITHOUT_CROPS, Depth, DepthEstimator

pytestmark = pytest.mark.usefixtures("one_thread")
PICTURE = PICTURES / f"{NAMES[0]}.jpg"
LIMITS = (0.1, 6.0)


@pytest.fixture(scope="module")
def backbone() -> dinokit.Backbone:
    return dinokit.load("dinokit_vitt16", device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return depth_folder(tmp_path_factory.mktemp("depth"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    return FeatureCache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def estimator(backbone: dinokit.Backbone, data: Path, cache: FeatureCache) -> DepthEstimator:
    estimator = DepthEstimator(backbone, size=160, layers=(-3, -1), range=LIMITS)
    estimator.fit(data, data, settings=FitSettings(steps=60, batch=2, lr=3e-3, validate_every=30), cache=cache)
    return estimator


def constant_error(data: Path) -> float:
    """The mean RMSE of the best single depth."""
    maps = [read_depth(MapFile.of(path), LIMITS) for path in sorted((data / "depth").iterdir())]
    mean = np.concatenate([depth[depth > 0] for depth in maps]).mean()
    return float(np.mean([np.sqrt(((depth[depth > 0] - mean) ** 2).mean()) for depth in maps]))


def test_it_learns_what_the_maps_show(estimator: DepthEstimator, data: Path) -> None:
    score = estimator.evaluate(data)
    assert score.pictures == len(NAMES)
    assert score.rmse < 0.75 * constant_error(data)
    assert score.delta1 > 0.5
    assert score.delta1 <= score.delta2 <= score.delta3


def test_alignment_forgives_scale_and_shift(estimator: DepthEstimator, data: Path) -> None:
    plain, aligned = estimator.evaluate(data), estimator.evaluate(data, align=True)
    assert aligned.rmse < plain.rmse


def test_it_learns_from_mirrored_pictures_too(backbone: dinokit.Backbone, data: Path, cache: FeatureCache) -> None:
    estimator = DepthEstimator(backbone, size=96, layers=(-1,), range=LIMITS)
    settings = FitSettings(steps=40, batch=2, lr=3e-3, validate_every=20)
    fitted = estimator.fit(data, data, settings=settings, augmentation=WITHOUT_CROPS, cache=cache)
    assert -fitted.score < constant_error(data)


def test_dpt_learns_too(backbone: dinokit.Backbone, data: Path, cache: FeatureCache) -> None:
    estimator = DepthEstimator(backbone, size=64, head="dpt", range=LIMITS)
    estimator.plan = replace(estimator.plan, shape=DPTShape((16, 16, 16, 16), 16, 16))
    settings = FitSettings(steps=60, batch=4, lr=3e-3, validate_every=60)
    fitted = estimator.fit(data, data, settings=settings, cache=cache)
    assert -fitted.score < 0.85 * constant_error(data)
    result = estimator.predict(PICTURE)
    assert isinstance(result, Depth)
    assert result.depth.shape == result.picture.shape[:2]


def test_the_same_seed_gives_the_same_head(backbone: dinokit.Backbone, data: Path, cache: FeatureCache) -> None:
    states = []
    for _ in range(2):
        other = DepthEstimator(backbone, size=96, layers=(-1,))
        other.fit(data, settings=FitSettings(steps=4, batch=2), cache=cache)
        assert other.head is not None
        states.append(other.head.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("ending", [".png", ".npy", ".pfm", ".exr"])
def test_a_result_is_written_in_metres_of_its_picture(estimator: DepthEstimator, tmp_path: Path, ending: str) -> None:
    result = estimator.predict(PICTURE)
    with Image.open(PICTURE) as image:
        assert result.depth.shape == (image.height, image.width)
    assert (
        LIMITS[0] <= result.metres()["least"] <= result.metres()["median"] <= result.metres()["greatest"] <= LIMITS[1]
    )
    result.save(tmp_path / f"depth{ending}")
    assert np.abs(read_depth(MapFile.of(tmp_path / f"depth{ending}"), (0.01, 10)) - result.depth).max() <= 0.0006


def test_near_is_bright(estimator: DepthEstimator) -> None:
    slope = np.linspace(1, 3, 300)[None].repeat(200, axis=0)
    shown = draw_depth(slope, np.zeros((200, 300, 3), np.uint8))
    assert shown.shape[1] > 600  # beside the picture
    assert shown.shape[0] > 200  # over the scale
    row = shown[100, -300:].astype(int).sum(axis=1)
    assert row[0] > row[150] > row[-1]
    result = estimator.predict(PICTURE)
    assert result.draw().dtype == np.uint8


def test_depth_that_is_one_number_can_be_drawn() -> None:
    assert draw_depth(np.full((40, 60), 2.0), np.zeros((40, 60, 3), np.uint8)).shape[2] == 3


@pytest.mark.parametrize("width", [1, 20, 55])
def test_depth_of_narrow_pictures_can_be_drawn(width: int) -> None:
    assert draw_depth(np.ones((30, width)), np.zeros((30, width, 3), np.uint8)).shape[1] >= 320


def test_depth_too_great_for_a_png_is_said(tmp_path: Path) -> None:
    far = Depth(np.full((4, 5), 70.0, np.float32), np.zeros((4, 5, 3), np.uint8))
    with pytest.warns(UserWarning, match=r"depth above 65\.535 m .* cut off"):
        far.save(tmp_path / "far.png")


@pytest.mark.parametrize("lost", ["plan", "layers", "size"])
def test_a_config_that_lacks_something_is_said(estimator: DepthEstimator, tmp_path: Path, lost: str) -> None:
    estimator.save(tmp_path / "head")
    path = tmp_path / "head" / "config.json"
    config = json.loads(path.read_text())
    del config["settings"][lost]
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        DepthEstimator.load(tmp_path / "head", estimator.backbone)


def test_a_saved_head_reads_the_same(estimator: DepthEstimator, backbone: dinokit.Backbone, tmp_path: Path) -> None:
    estimator.save(tmp_path / "head")
    loaded = DepthEstimator.load(tmp_path / "head", backbone)
    assert loaded.plan == estimator.plan
    assert np.array_equal(loaded.predict(PICTURE).depth, estimator.predict(PICTURE).depth)


def test_a_head_is_refused_by_another_backbone(estimator: DepthEstimator, tmp_path: Path) -> None:
    estimator.save(tmp_path / "head")
    with pytest.raises(UserError, match="dinokit_vitt16"):
        DepthEstimator.load(tmp_path / "head", dinokit.load("random:dinokit_vitt16", device="cpu"))


def test_a_convnext_serves_the_linear_head(data: Path, cache: FeatureCache) -> None:
    network = dinokit.load("random:dinov3_convnext_tiny", device="cpu", precision="fp32")
    estimator = DepthEstimator(network, size=96)
    estimator.fit(data, settings=FitSettings(steps=2, batch=2), cache=cache)
    assert estimator.predict(PICTURE).depth.max() <= 10
    with pytest.raises(UserError, match="take the linear head"):
        DepthEstimator(network, head="dpt")


def test_one_frame_is_not_enough(backbone: dinokit.Backbone, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has one picture"):
        DepthEstimator(backbone).fit(depth_folder(tmp_path / "one", NAMES[:1]))


def test_two_frames_are(backbone: dinokit.Backbone, tmp_path: Path, cache: FeatureCache) -> None:
    folder = depth_folder(tmp_path / "two", NAMES[:2])
    fitted = DepthEstimator(backbone, size=96).fit(folder, settings=FitSettings(steps=2, batch=2), cache=cache)
    assert fitted.score < 0


def test_frames_without_depth_are_left_out(backbone: dinokit.Backbone, tmp_path: Path, cache: FeatureCache) -> None:
    folder = depth_folder(tmp_path / "data")
    blank(folder, NAMES[3])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        DepthEstimator(backbone, size=96).fit(folder, settings=FitSettings(steps=2, batch=2), cache=cache)
    assert f"{NAMES[3]}.png left out: no depth between 0.001 and 10 m" in str(said[0].message)


def blank(folder: Path, name: str) -> None:
    path = folder / "depth" / f"{name}.png"
    Image.fromarray(np.zeros_like(np.array(Image.open(path)))).save(path)


def test_arguments_that_make_no_sense(backbone: dinokit.Backbone) -> None:
    with pytest.raises(UserError, match="head is 'mlp'"):
        DepthEstimator(backbone, head="mlp")  # type: ignore[arg-type]
    for limits in ((0, 10), (5, 2), (1, float("nan"))):
        with pytest.raises(UserError, match="range is"):
            DepthEstimator(backbone, range=limits)
    with pytest.raises(UserError, match="reads 4 layers, not 1"):
        DepthEstimator(backbone, head="dpt", layers=(-1,))
    with pytest.raises(UserError, match="call fit"):
        DepthEstimator(backbone).predict(PICTURE)


def test_a_file_that_is_no_published_head(backbone: dinokit.Backbone, tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(3, 3)}, tmp_path / "other.pth")
    torch.save(
        {"conv_depth.weight": torch.zeros(256, 99, 1, 1), "conv_depth.bias": torch.zeros(256)}, tmp_path / "w.pth"
    )
    torch.save({"conv_depth.head.4.weight": torch.zeros(256, 32, 1, 1)}, tmp_path / "part.pth")
    for name, said in (("other", "holds no depth head"), ("w", "another shape"), ("part", "a part of a DPT head")):
        with pytest.raises(UserError, match=said):
            DepthEstimator.from_published(tmp_path / f"{name}.pth", backbone)


def test_the_command_line(
    estimator: DepthEstimator, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head, out = tmp_path / "head", tmp_path / "out"
    quick = ["--steps", "3", "--batch", "2", "--size", "64", "--device", "cpu"]
    assert main(["depth", "fit", str(data), "--out", str(head), *quick, "--range", "0.5", "6"]) == 0
    assert "RMSE" in capsys.readouterr().out
    assert main(["depth", "predict", str(head), str(PICTURE), "--out", str(out), "--format", "exr"]) == 0
    assert sorted(path.name for path in out.iterdir()) == [f"{NAMES[0]}-drawn.jpg", f"{NAMES[0]}.exr"]
    capsys.readouterr()
    assert main(["depth", "evaluate", str(head), str(data), "--align", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["pictures"] == len(NAMES)
    assert 0 < found["rmse"] < METRES.max()
    assert main(["depth", "evaluate", str(head), str(data), "--align"]) == 0
    assert capsys.readouterr().out.startswith("aligned: RMSE ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("fit {data} --out {new} --range 5 1", "range is (5.0, 1.0)"),
        ("fit {none} --out {new}", "none is not found"),
        ("fit {empty} --out {new}", "has no folder images/"),
        ("predict {none} {data}/rgb", "holds no head"),
        ("evaluate {data} {data}", "holds no head"),
    ],
)
def test_what_is_wrong_is_one_line(
    arguments: str, said: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"data": data, "new": tmp_path / "new", "none": tmp_path / "none", "empty": tmp_path / "empty"}
    assert main(["depth", *arguments.format(**places).split()]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
