"""From photos to the page, with a stand-in for the network."""

import os
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from torch.nn.functional import adaptive_avg_pool2d

from dinokit.backbones.catalog import spec_of
from dinokit.backbones.features import Features, Grid
from dinokit.backbones.network import Spec
from dinokit.checkpoints.load import load_model
from dinokit.checkpoints.model import ModelInfo
from dinokit.cli.app import main
from dinokit.errors import UserError
from dinokit.inference.backbone import Backbone
from dinokit.inference.views import View
from dinokit.report import demo
from dinokit.report.bundled_photos import TWO_VIEWS
from dinokit.report.demo_page import LARGEST_SIDE


class MeanColours(Backbone):
    """A backbone whose features are the mean colours of 4 x 6 cells."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    @property
    def spec(self) -> Spec:
        return spec_of("dinokit_vitt16")

    @property
    def info(self) -> ModelInfo:  # type: ignore[override]
        return ModelInfo("colours", self.spec)

    def encode_layers(
        self, views: Sequence[View], layers: Sequence[int], batch_size: int = 16, tile: int | None = None
    ) -> list[tuple[Features, ...]]:
        [view] = views
        self.shapes.append(tuple(view.pixels.shape[1:]))
        patches = adaptive_avg_pool2d(view.pixels.float(), (4, 6)).permute(1, 2, 0)[None]
        return [(Features(patches.mean((1, 2)), patches[:, 0, :0], patches, Grid(4, 6, (view.size,))),) * len(layers)]


def save(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (96, 64)) -> Path:
    Image.new("RGB", size, colour).save(path)
    return path


def test_the_photos_of_the_package_are_matched_as_two_views() -> None:
    photos, remark = demo.choose_photos(None)
    assert remark == ""
    encoded = list(demo.encode_photos(photos, MeanColours(), 448, pytest.fail))
    assert all(photo.credit for photo in encoded)
    pair = demo.choose_pair(encoded)
    assert pair is not None
    assert tuple(Path(photos.key(i)).name for i in pair) == TWO_VIEWS
    about = demo.describe(encoded, "some/where/mine", 16, 448, 3.2)
    assert about["model"] == "mine"
    assert about["photos"] == "12"


def test_in_a_folder_the_two_most_alike_are_matched(tmp_path: Path) -> None:
    for name, colour in (("a", (250, 0, 0)), ("b", (0, 250, 0)), ("c", (240, 10, 0))):
        save(tmp_path / f"{name}.png", colour)
    photos, _ = demo.choose_photos(str(tmp_path))
    encoded = list(demo.encode_photos(photos, MeanColours(), 448, pytest.fail))
    assert demo.choose_pair(encoded) == (0, 2)
    assert demo.choose_pair(encoded[:1]) is None


def test_a_large_folder_is_cut_and_says_so(tmp_path: Path) -> None:
    for i in range(demo.MOST_PHOTOS + 2):
        save(tmp_path / f"{i:02}.png", (i, i, i), (8, 8))
    photos, remark = demo.choose_photos(str(tmp_path))
    assert len(photos) == demo.MOST_PHOTOS
    assert remark == "showing the first 24 of 26 photos"


def test_a_long_panorama_is_read_smaller(tmp_path: Path) -> None:
    save(tmp_path / "wide.png", (9, 9, 9), (800, 100))
    save(tmp_path / "usual.png", (9, 9, 9))
    backbone = MeanColours()
    list(demo.encode_photos(demo.choose_photos(str(tmp_path))[0], backbone, 448, pytest.fail))
    assert backbone.shapes == [(448, 672), (320, 1264)]


def test_of_a_very_long_picture_the_middle_is_shown(tmp_path: Path) -> None:
    strip = Image.new("RGB", (2000, 1), (255, 0, 0))
    strip.paste((0, 255, 0), (998, 0, 1002, 1))
    strip.save(tmp_path / "strip.png")
    [photo] = demo.encode_photos(demo.choose_photos(str(tmp_path))[0], MeanColours(), 64, pytest.fail)
    assert photo.name == "strip (its middle)"
    assert (photo.picture == [0, 255, 0]).all()
    assert photo.picture.shape == (1, 4, 3)


def test_shards_are_read_as_everywhere(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "photos-0000.tar", "w") as tar:
        tar.add(save(tmp_path / "a.png", (1, 2, 3)), "0001.png")
    photos, _ = demo.choose_photos(str(tmp_path / "photos-0000.tar"))
    [photo] = demo.encode_photos(photos, MeanColours(), 64, pytest.fail)
    assert photo.name == "0001"


def test_too_large_a_size_names_the_photo(tmp_path: Path) -> None:
    photos, _ = demo.choose_photos(str(save(tmp_path / "ok.png", (1, 2, 3))))
    with pytest.raises(UserError, match=r"ok\.png has too many patches at size 20000"):
        list(demo.encode_photos(photos, MeanColours(), 20_000, pytest.fail))


@pytest.mark.parametrize("photo", ["bad.jpg", "missing.jpg"])
def test_a_refused_demo_leaves_no_folder(tmp_path: Path, photo: str) -> None:
    (tmp_path / "bad.jpg").write_text("no picture")
    model = ["--model", "random:dinokit_vitt16", "--device", "cpu"]
    assert main(["demo", str(tmp_path / photo), "--out", str(tmp_path / "out"), *model]) == 2
    assert not (tmp_path / "out").exists()


def test_the_page_says_of_the_network_only_what_is_known(tmp_path: Path) -> None:
    bundled = load_model("dinokit_vitt16").info
    other = replace(bundled, weights_sha256="0123")
    (tmp_path / "model").mkdir()
    (tmp_path / "recipe.toml").touch()
    assert "without a single label" in demo.upbringing("dinokit_vitt16", bundled)
    assert "without a single label" in demo.upbringing(str(tmp_path), other)
    assert "label" not in demo.upbringing("found.safetensors", other)
    assert "random" in demo.upbringing("random:dinokit_vitt16", load_model("random:dinokit_vitt16").info)


def test_unreadable_photos_are_skipped_with_a_warning(tmp_path: Path) -> None:
    save(tmp_path / "good.png", (1, 2, 3))
    (tmp_path / "bad.jpg").write_text("no picture")
    warnings: list[str] = []
    encoded = list(demo.encode_photos(demo.choose_photos(str(tmp_path))[0], MeanColours(), 448, warnings.append))
    assert [photo.name for photo in encoded] == ["good"]
    assert len(warnings) == 1
    assert "bad.jpg" in warnings[0]


@pytest.mark.parametrize("count", [1, 3])
def test_no_readable_photo_is_one_error(tmp_path: Path, count: int) -> None:
    for i in range(count):
        (tmp_path / f"bad{i}.jpg").write_text("no picture")
    photos, _ = demo.choose_photos(str(tmp_path))
    with pytest.raises(UserError, match=r"bad0\.jpg is not a picture"):
        list(demo.encode_photos(photos, MeanColours(), 448, pytest.fail))


def test_a_folder_without_pictures_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("text")
    with pytest.raises(UserError, match="has no pictures"):
        demo.choose_photos(str(tmp_path))


def test_photos_are_kept_as_small_as_they_are_shown(tmp_path: Path) -> None:
    save(tmp_path / "large.png", (9, 9, 9), (1600, 1200))
    [photo] = demo.encode_photos(demo.choose_photos(str(tmp_path))[0], MeanColours(), 448, pytest.fail)
    assert photo.picture.shape == (LARGEST_SIDE * 3 // 4, LARGEST_SIDE, 3)


def test_file_names_that_are_no_text_make_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.rename(save(tmp_path / "a.png", (9, 9, 9), (40, 32)), os.fsencode(tmp_path) + b"/caf\xe9\n.png")
    out = os.fsdecode(os.fsencode(tmp_path) + b"/p\xe9")
    options = ["--model", "random:dinokit_vitt16", "--size", "32", "--device", "cpu"]
    assert main(["demo", str(tmp_path), "--out", out, *options]) == 0
    assert "/p?/index.html in a browser" in capsys.readouterr().out
    assert '"name":"caf?"' in Path(out, "index.html").read_text(encoding="utf-8")
