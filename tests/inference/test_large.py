"""Pictures that are too large for one pass are looked at in tiles, and nobody notices but by a word."""

import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image

import dinokit
from dinokit.errors import UserError
from dinokit.inference import backbone as backbone_file
from dinokit.inference import memory
from dinokit.inference.backbone import Backbone, TilesWarning


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return dinokit.load("dinokit_vitt16", precision="fp32")


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    folder = Path(__file__).parents[1] / "pictures"
    return Image.open(sorted(folder.glob("*.jpg"))[0]).convert("RGB")


def cosines(a: dinokit.Features, b: dinokit.Features) -> torch.Tensor:
    return torch.cosine_similarity(a.patches, b.patches, dim=-1).flatten()


@pytest.mark.parametrize(("tile", "least"), [(320, 0.8), (256, 0.7)])
def test_tiles_give_nearly_the_features_of_one_pass(
    backbone: Backbone, photo: Image.Image, tile: int, least: float
) -> None:
    whole, tiled = backbone.encode(photo, size=448), backbone.encode(photo, size=448, tile=tile)
    assert whole.patches.shape == tiled.patches.shape
    assert tiled.grid == whole.grid
    assert not torch.equal(whole.patches, tiled.patches)
    assert cosines(whole, tiled).median() > least, "patches see their own tile alone, so nearly is all there can be"
    assert torch.cosine_similarity(whole.cls, tiled.cls).item() > 0.8


def test_a_picture_within_one_tile_is_read_in_one_pass(backbone: Backbone, photo: Image.Image) -> None:
    assert torch.equal(
        backbone.encode(photo, size=(96, 160)).patches, backbone.encode(photo, size=(96, 160), tile=160).patches
    )


def test_where_memory_does_not_suffice_tiles_are_taken_with_a_word(
    backbone: Backbone, photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbone_file, "TILE_SIDE", 128)
    expected = backbone.encode(photo, size=256, tile=128)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 100 << 20)
    with pytest.warns(TilesWarning, match="do not fit into memory in one pass: looking at tiles of 128 px"):
        found = backbone.encode(photo, size=256)
    torch.testing.assert_close(found.patches, expected.patches)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backbone.encode(photo, size=(128, 128))


@pytest.mark.parametrize("tile", [0, -16, 16, 2.5, "128"])
def test_an_impossible_tile_is_named(backbone: Backbone, photo: Image.Image, tile: object) -> None:
    with pytest.raises(UserError, match="tile is"):
        backbone.encode(photo, tile=tile)  # type: ignore[call-overload]


def test_free_memory_is_known_here() -> None:
    free = memory.free_bytes(torch.device("cpu"))
    assert free is None or 1 << 26 < free < 1 << 50


def test_the_cache_of_files_in_a_container_counts_as_free(tmp_path: Path) -> None:
    for name, text in {
        "memory.max": "1000\n",
        "memory.current": "900\n",
        "memory.stat": "anon 5\ninactive_file 700\n",
    }.items():
        (tmp_path / name).write_text(text)
    assert memory._left_in_group(tmp_path) == 800
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._left_in_group(tmp_path) is None
    assert memory._left_in_group(tmp_path / "nowhere") is None


def test_a_pass_takes_about_what_is_planned_for_it(backbone: Backbone) -> None:
    """The estimate grows with the picture, and large ones do not fit everywhere."""
    spec = backbone.spec
    small, large = (memory.pass_bytes(spec, side**2, torch.bfloat16) for side in (1024, 8192))
    assert small < large < 8 << 30
    convnext = dinokit.load("random:dinov3_convnext_tiny").spec
    assert memory.pass_bytes(convnext, 4096**2, torch.bfloat16) > memory.pass_bytes(convnext, 1024**2, torch.bfloat16)
