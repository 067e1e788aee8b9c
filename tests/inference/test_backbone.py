"""A frozen backbone as its users meet it: pictures of any size in, features in their place out."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dinokit
from dinokit.errors import UserError
from dinokit.images.normalize import IMAGENET, normalize
from dinokit.inference.backbone import Backbone

PICTURES = sorted((Path(__file__).parents[1] / "pictures").glob("*.jpg"))


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return dinokit.load("random:dinokit_vitt16", precision="fp32")


def test_one_picture_gives_features_of_stated_shapes(backbone: Backbone) -> None:
    features = backbone.encode(PICTURES[0], size=96)
    rows, cols = features.patches.shape[1:3]
    assert features.cls.shape == (1, backbone.embed_dim)
    assert features.registers.shape == (1, backbone.num_registers, backbone.embed_dim)
    assert min(rows, cols) == 96 // backbone.patch_size
    assert features.cls.dtype == torch.float32
    with Image.open(PICTURES[0]) as picture:
        assert features.grid is not None
        assert features.grid.sizes == ((picture.height, picture.width),)


def test_every_kind_of_source_gives_the_same_features(backbone: Backbone) -> None:
    path = PICTURES[0]
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
        sources = [str(path), path.read_bytes(), picture.copy(), pixels]
        expected = backbone.encode(path, size=64).cls
        for source in sources:
            torch.testing.assert_close(backbone.encode(source, size=64).cls, expected, atol=0.02, rtol=0.02)


def test_pictures_of_one_grid_come_as_a_batch_and_others_as_a_list(backbone: Backbone) -> None:
    batch = backbone.encode(PICTURES[:3], size=(64, 80))
    assert isinstance(batch, dinokit.Features)
    assert batch.patches.shape[:3] == (3, 4, 5)
    wide, tall = np.zeros((40, 90, 3), np.uint8), np.zeros((90, 40, 3), np.uint8)
    several = backbone.encode([wide, tall, wide], size=32)
    assert isinstance(several, list)
    assert [tuple(f.patches.shape[1:3]) for f in several] == [(2, 5), (5, 2), (2, 5)]
    torch.testing.assert_close(several[0].cls, several[2].cls)


def test_a_batch_gives_what_single_pictures_give(backbone: Backbone) -> None:
    batch = backbone.encode(PICTURES[:3], size=(64, 64))
    assert isinstance(batch, dinokit.Features)
    for number, path in enumerate(PICTURES[:3]):
        single = backbone.encode(path, size=(64, 64))
        torch.testing.assert_close(batch.cls[number], single.cls[0], atol=1e-5, rtol=1e-5)


def test_large_pictures_go_through_the_network_one_by_one(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dinokit.inference.backbone.PASS_PIXELS", 2 * 64 * 64)
    fast, asked = backbone.prepared, []

    def note(pictures: torch.Tensor) -> dinokit.Features:
        asked.append(tuple(pictures.shape))
        return fast(pictures)

    monkeypatch.setattr(backbone, "_prepared", note)
    small, large = np.zeros((64, 64, 3), np.uint8), np.zeros((96, 160, 3), np.uint8)
    found = backbone.encode([large, small, small, large, small], size="native")
    assert [len(features.tokens[0]) for features in found] == [60, 16, 16, 60, 16]
    assert asked == [(2, 3, 64, 64), (1, 3, 64, 64), (1, 3, 96, 160), (1, 3, 96, 160)]


def test_the_grid_maps_cells_to_source_pixels_and_back(backbone: Backbone) -> None:
    features = backbone.encode(np.zeros((100, 250, 3), np.uint8), size=64)
    grid = features.grid
    assert grid is not None
    assert (grid.rows, grid.cols) == (4, 10)
    first = grid.to_pixels(torch.tensor([0, 0]))
    torch.testing.assert_close(grid.to_pixels((0, 0)), first)
    torch.testing.assert_close(grid.to_cells([[*first.tolist()]])[0], torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(first, torch.tensor([12.5, 12.5], dtype=torch.float64))
    cells = torch.tensor([[0, 0], [3, 9], [1, 4]])
    torch.testing.assert_close(grid.to_cells(grid.to_pixels(cells)), cells.double())


def test_the_native_size_changes_at_most_half_a_patch(backbone: Backbone) -> None:
    features = backbone.encode(np.zeros((70, 130, 3), np.uint8), size="native")
    assert features.patches.shape[1:3] == (4, 8)


def test_the_fast_copy_equals_the_readable_network(backbone: Backbone) -> None:
    pictures = normalize(torch.randint(0, 256, (2, 3, 48, 80), dtype=torch.uint8), IMAGENET)
    with torch.no_grad():
        expected = backbone.network(pictures)
    found = backbone(pictures)
    torch.testing.assert_close(found.patches, expected.patches, atol=1e-5, rtol=1e-5)
    layers = backbone.intermediate(pictures, layers=[2, -1], norm=False)
    with torch.no_grad():
        reference = backbone.network.intermediate(pictures, [2, 11], norm=False)
    for ours, theirs in zip(layers, reference, strict=True):
        torch.testing.assert_close(ours.patches, theirs.patches, atol=1e-5, rtol=1e-5)


def test_changed_weights_are_taken_up_after_refresh() -> None:
    backbone = dinokit.load("random:dinokit_vitt16", precision="fp32")
    pictures = torch.randn(1, 3, 32, 32)
    before = backbone(pictures).cls
    with torch.no_grad():
        backbone.network.norm.bias += 1
    backbone.refresh()
    torch.testing.assert_close(backbone(pictures).cls, before + 1)


def test_what_is_saved_loads_with_equal_features(tmp_path: Path, backbone: Backbone) -> None:
    dinokit.save(backbone, tmp_path / "mine")
    again = dinokit.load(tmp_path / "mine", precision="fp32")
    pictures = torch.randn(1, 3, 32, 48)
    torch.testing.assert_close(again(pictures).patches, backbone(pictures).patches)


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        (torch.zeros(1, 3, 40, 32), "no multiples of 16"),
        (torch.zeros(3, 32, 32), "no batch of pictures"),
        (torch.zeros(1, 4, 32, 32), "no batch of pictures"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "no batch of pictures"),
        (torch.zeros(0, 3, 32, 32), "holds no picture"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(backbone: Backbone, pictures: torch.Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message):
        backbone(pictures)


def test_mistakes_are_named(backbone: Backbone) -> None:
    with pytest.raises(UserError, match="size"):
        backbone.encode(PICTURES[0], size=0)
    with pytest.raises(UserError, match="no pictures"):
        backbone.encode([])
    with pytest.raises(UserError, match="blocks are 0 to 11"):
        backbone.intermediate(torch.zeros(1, 3, 32, 32), layers=[12])
    for layers in (4, [1.0], "3"):
        with pytest.raises(UserError, match="layers is"):
            backbone.intermediate(torch.zeros(1, 3, 32, 32), layers=layers)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="batch_size is 0"):
        backbone.encode(PICTURES[0], batch_size=0)
    with pytest.raises(UserError, match="is no picture"), open(PICTURES[0], "rb") as file:
        backbone.encode(file)  # type: ignore[call-overload]
    with pytest.raises(UserError, match="str is no tensor"):
        backbone("street.jpg")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="patch_size is 48"):
        dinokit.load("random:dinov3_convnext_tiny", patch_size=48)
    with pytest.raises(UserError, match="did you mean dinov3_vitb16"):
        dinokit.load("dinov3_vitb61")
    with pytest.raises(UserError, match="nobody published weights of vit_small"):
        dinokit.load("vit_small")
    for device in ("tpu", "cpu:x", "cpu:5", "cuda:99", ""):
        with pytest.raises(UserError, match=f"device '{device}' is unknown|no {device} device"):
            dinokit.load("random:dinokit_vitt16", device=device)
    with pytest.raises(UserError, match="precision"):
        dinokit.load("random:dinokit_vitt16", precision="int3")


def test_too_many_patches_name_the_picture(backbone: Backbone, tmp_path: Path) -> None:
    Image.new("RGB", (1, 70_000)).save(tmp_path / "strip.png")
    with pytest.raises(UserError, match=r"strip\.png has too many patches at size 448"):
        backbone.encode(tmp_path / "strip.png", size=448)


def test_features_are_shown_in_one_line() -> None:
    features = dinokit.load("random:dinokit_vitt16").encode(np.zeros((64, 96, 3), np.uint8), size=64)
    shapes = "cls [1, 192], registers [1, 0, 192], patches [1, 4, 6, 192]"
    assert repr(features) == f"Features({shapes}, grid of 4 x 6 cells, float32 on {features.cls.device})"
