"""Segmentation: a head learns from pictures with masks, and everything about masks that can be wrong is said."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_golden import load_golden
from helpers_labels import NAMES, PICTURES, segmentation_folder
from PIL import Image

import dinokit
from dinokit.backbones.rope import RopeSpec
from dinokit.backbones.vit import VisionTransformer, ViTSpec
from dinokit.checkpoints.model import LoadedModel, ModelInfo
from dinokit.data.masks import IGNORE, Masks
from dinokit.data.pairs import open_pairs
from dinokit.errors import UserError
from dinokit.heads.augment import Augmentation
from dinokit.heads.fit import FitSettings
from dinokit.inference import backbone as backbone_file
from dinokit.inference import memory
from dinokit.inference.backbone import TilesWarning
from dinokit.inference.cache import FeatureCache
from dinokit.tasks.segment import Segmenter, class_weights

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = FitSettings(steps=60, batch=4, lr=5e-3, validate_every=30)


@pytest.fixture(scope="module")
def backbone() -> dinokit.Backbone:
    return dinokit.load("dinokit_vitt16", device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return segmentation_folder(tmp_path_factory.mktemp("segmentation"))


@pytest.fixture(scope="module")
def segmenter(backbone: dinokit.Backbone, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    segmenter = Segmenter(backbone, size=224, layers=(-3, -1))
    segmenter.fit(data, data, settings=QUICK, cache=FeatureCache(tmp_path_factory.mktemp("cache")))
    return segmenter


def test_it_learns_what_the_masks_show(segmenter: Segmenter, data: Path) -> None:
    score = segmenter.evaluate(data)
    always_background = Image.open(next((data / "masks").iterdir()))
    assert segmenter.classes == ("background", "person", "thing")
    assert score.classes == segmenter.classes
    assert score.miou > 55  # the background alone gives at most 33
    assert score.pixel_accuracy > 80
    assert np.array(always_background).max() < 3


def test_it_learns_from_changed_pictures_too(backbone: dinokit.Backbone, data: Path, tmp_path: Path) -> None:
    segmenter = Segmenter(backbone, size=96, layers=(-1,))
    settings = FitSettings(steps=40, batch=4, lr=1e-2, validate_every=20)
    fitted = segmenter.fit(data, data, settings=settings, augmentation=Augmentation(), cache=FeatureCache(tmp_path))
    assert fitted.score > 33


def test_balance_lets_rare_classes_count() -> None:
    pixels = np.array([8, 1, 1])
    shares = torch.tensor([8.0, 1.0, 1.0]) / 10
    assert torch.allclose(class_weights(pixels, 0.0), torch.ones(3))
    assert torch.allclose(class_weights(pixels, 1.0) * shares, torch.full((3,), 1 / 3))
    half = class_weights(pixels, 0.5)
    assert half[1] / half[0] == pytest.approx(8**0.5)
    with pytest.raises(UserError, match="balance is 2"):
        class_weights(pixels, 2.0)


def test_the_same_seed_gives_the_same_head(backbone: dinokit.Backbone, data: Path, tmp_path: Path) -> None:
    heads = []
    for _ in range(2):
        other = Segmenter(backbone, size=96, layers=(-1,))
        other.fit(data, settings=FitSettings(steps=6, batch=4), cache=FeatureCache(tmp_path))
        assert other.head is not None
        heads.append(other.head.state_dict())
    assert all(torch.equal(heads[0][key], heads[1][key]) for key in heads[0])


def test_a_result_has_the_size_of_its_picture(segmenter: Segmenter, tmp_path: Path) -> None:
    picture = PICTURES / f"{NAMES[0]}.jpg"
    result = segmenter.predict(picture)
    with Image.open(picture) as image:
        assert result.labels.shape == result.confidence.shape == (image.height, image.width)
    assert result.draw().shape[1] == result.labels.shape[1]
    assert result.draw().shape[0] > result.labels.shape[0]  # with a legend
    assert sum(result.shares().values()) == pytest.approx(1, abs=1e-3)
    result.save(tmp_path / "labels.png")
    assert np.array_equal(np.array(Image.open(tmp_path / "labels.png")), result.labels)
    result.save(tmp_path / "labels.npy")
    assert np.array_equal(np.load(tmp_path / "labels.npy"), result.labels)
    with pytest.raises(UserError, match="ending"):
        result.save(tmp_path / "labels.xyz")


def test_several_pictures_give_a_list(segmenter: Segmenter) -> None:
    results = segmenter.predict(PICTURES)
    assert isinstance(results, list)
    assert len(results) == len(NAMES)


def test_looking_several_times_hardly_changes_a_sure_result(segmenter: Segmenter) -> None:
    picture = PICTURES / f"{NAMES[0]}.jpg"
    once, often = segmenter.predict(picture), segmenter.predict_with_care(picture, (0.75, 1.0, 1.25), flip=True)
    sure = (once.confidence > 0.75) & (often.confidence > 0.75)
    assert sure.mean() > 0.2
    assert (once.labels == often.labels)[sure].mean() > 0.95


def test_a_saved_head_reads_the_same(segmenter: Segmenter, backbone: dinokit.Backbone, tmp_path: Path) -> None:
    segmenter.save(tmp_path / "head")
    loaded = Segmenter.load(tmp_path / "head", backbone)
    picture = PICTURES / f"{NAMES[1]}.jpg"
    assert loaded.classes == segmenter.classes
    assert np.array_equal(loaded.predict(picture).confidence, segmenter.predict(picture).confidence)


def test_a_window_slides_over_large_pictures(segmenter: Segmenter, data: Path, tmp_path: Path) -> None:
    segmenter.save(tmp_path / "head")
    whole = Segmenter.load(tmp_path / "head", segmenter.backbone)
    sliding = Segmenter.load(tmp_path / "head", segmenter.backbone, tile=160)
    expected, found = whole.predict(PICTURES / "000000126107.jpg"), sliding.predict(PICTURES / "000000126107.jpg")
    assert found.labels.shape == expected.labels.shape
    assert not np.array_equal(found.confidence, expected.confidence)
    assert (found.labels == expected.labels).mean() > 0.8
    with pytest.raises(UserError, match="tile is 8"):
        Segmenter(segmenter.backbone, tile=8)
    trained = Segmenter(segmenter.backbone, size=224, layers=(-1,), tile=160)
    trained.fit(data, data, settings=QUICK, cache=FeatureCache(tmp_path / "cache"))
    trained.save(tmp_path / "sliding")
    assert Segmenter.load(tmp_path / "sliding", segmenter.backbone).look == trained.look


def test_large_pictures_slide_where_memory_does_not_suffice(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbone_file, "TILE_SIDE", 128)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 100 << 20)
    with pytest.warns(TilesWarning, match="looking at tiles of 128 px"):
        segmenter.predict(PICTURES / "000000126107.jpg")


def test_a_head_of_the_public_code_gives_its_logits(tmp_path: Path) -> None:
    tensors, _ = load_golden("heads_linear_segmentation")
    spec = ViTSpec(width=48, depth=4, heads=2, ffn_hidden=96, patch_size=16, rope=RopeSpec())
    backbone = dinokit.Backbone(LoadedModel(VisionTransformer(spec), ModelInfo("small", spec)), "cpu", "fp32")
    for case in ("last", "four"):
        prefix = f"state.{case}."
        state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        saved = {f"segmentation_model.1.{key}": value for key, value in state.items()}
        saved["segmentation_model.0.feature_model.norm.weight"] = torch.ones(48)
        torch.save({"model": saved}, tmp_path / f"{case}.pth")
        layers = None if case == "last" else (0, 1, 2, 3)
        made = Segmenter.from_published(tmp_path / f"{case}.pth", backbone, layers=layers)
        assert made.look.layers == ((3,) if case == "last" else layers)
        assert (made.look.size, made.look.tile, made.classes) == (512, 512, tuple("0123456"))
        maps = [(tensors[f"in.{case}.feat{n}"], torch.zeros(0)) for n in range(len(made.look.layers))]
        assert made.head is not None
        assert (made.head(maps) - tensors[f"out.{case}.logits"]).abs().max() <= 1e-5
    assert Segmenter.from_published(tmp_path / "last.pth", backbone, classes=list("abcdefg")).classes[2] == "c"
    with pytest.raises(UserError, match=r"takes 192 numbers a patch, .* gives 48: .* the layers that it reads"):
        Segmenter.from_published(tmp_path / "four.pth", backbone)
    with pytest.raises(UserError, match="2 names for the 7 classes"):
        Segmenter.from_published(tmp_path / "last.pth", backbone, classes=["a", "b"])
    with pytest.raises(UserError, match="takes 48 numbers a patch, the last block of this backbone gives 192"):
        Segmenter.from_published(tmp_path / "last.pth", dinokit.load("random:dinokit_vitt16"))
    torch.save({"conv.weight": torch.ones(300, 48, 1, 1)}, tmp_path / "many.pth")
    with pytest.raises(UserError, match=r"many\.pth has 300 classes"):
        Segmenter.from_published(tmp_path / "many.pth", backbone)
    torch.save({"weight": torch.ones(2, 48)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="holds no linear segmentation head"):
        Segmenter.from_published(tmp_path / "other.pth", backbone)


def test_a_head_is_refused_by_another_backbone(segmenter: Segmenter, tmp_path: Path) -> None:
    segmenter.save(tmp_path / "head")
    other = dinokit.load("random:dinokit_vitt16", device="cpu")
    with pytest.raises(UserError, match="dinokit_vitt16"):
        Segmenter.load(tmp_path / "head", other)


def test_a_convnext_serves_as_well(data: Path, tmp_path: Path) -> None:
    network = dinokit.load("random:dinov3_convnext_tiny", device="cpu", precision="fp32")
    segmenter = Segmenter(network, size=128, layers=(-2, -1))
    segmenter.fit(data, settings=FitSettings(steps=3, batch=2), cache=FeatureCache(tmp_path))
    assert segmenter.predict(PICTURES / f"{NAMES[0]}.jpg").labels.max() < 3


def change_mask(folder: Path, change: np.ndarray | bytes) -> None:
    path = folder / "masks" / f"{NAMES[0]}.png"
    if isinstance(change, bytes):
        path.write_bytes(change)
    else:
        Image.fromarray(change).save(path)


SHAPE = np.array(Image.open(PICTURES / f"{NAMES[0]}.jpg")).shape
WRONG = {
    "other size": (np.zeros((10, 12), np.uint8), "is 12 x 10 px, its picture"),
    "colours": (np.zeros(SHAPE, np.uint8), "has colours"),
    "out of range": (np.full(SHAPE[:2], 300, np.uint16), "values from 300 to 300"),
    "damaged": (b"\x89PNG\r\n\x1a\nno more", "cannot be read"),
    "unnamed class": (np.full(SHAPE[:2], 7, np.uint8), "classes.txt names 3"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_mask_is_named(backbone: dinokit.Backbone, tmp_path: Path, kind: str) -> None:
    folder = segmentation_folder(tmp_path / "data")
    content, said = WRONG[kind]
    change_mask(folder, content)
    with pytest.raises(UserError, match=said):
        Segmenter(backbone, size=96).fit(folder, cache=FeatureCache(tmp_path / "cache"))


HEADER = b"\x93NUMPY\x01\x00v\x00{'descr': '<i8', 'fortran_order': False, 'shape': (%d, 10), }"


@pytest.mark.parametrize("content", [b"\x93NUMPY\x01\x00v\x00{'descr': '<i8', (", HEADER % 10**15, HEADER % 3, b""])
def test_a_broken_array_is_named(content: bytes, backbone: dinokit.Backbone, tmp_path: Path) -> None:
    folder = segmentation_folder(tmp_path, NAMES[:1])
    (folder / "masks" / f"{NAMES[0]}.png").unlink()
    padded = content and content.ljust(128)[:-1] + b"\n"
    (folder / "masks" / f"{NAMES[0]}.npy").write_bytes(padded)
    with pytest.raises(UserError, match=rf"{NAMES[0]}\.npy cannot be read \(.+\)"):
        Segmenter(backbone).fit(folder)


def test_masks_of_one_class_are_refused(backbone: dinokit.Backbone, tmp_path: Path) -> None:
    folder = segmentation_folder(tmp_path / "data")
    for mask in (folder / "masks").iterdir():
        Image.fromarray(np.zeros_like(np.array(Image.open(mask)))).save(mask)
    with pytest.raises(UserError, match="the one class 0"):
        Segmenter(backbone).fit(folder)


def test_a_class_of_the_test_alone_is_refused(segmenter: Segmenter, tmp_path: Path) -> None:
    folder = segmentation_folder(tmp_path / "data")
    change_mask(folder, np.full(SHAPE[:2], 3, np.uint8))
    with pytest.raises(UserError, match="class 3, which the masks of the training do not have"):
        segmenter.evaluate(folder)


def test_classes_are_the_same_where_their_names_are(segmenter: Segmenter, data: Path, tmp_path: Path) -> None:
    """Other files number the same classes otherwise: COCO by the categories that a file lists."""
    folder = segmentation_folder(tmp_path / "data")
    (folder / "classes.txt").write_text("thing\nbackground\nperson\n")
    for mask in (folder / "masks").iterdir():
        Image.fromarray(np.array([1, 2, 0], np.uint8)[np.array(Image.open(mask))]).save(mask)
    cache = FeatureCache(tmp_path / "cache")
    expected, found = (segmenter.evaluate(source, cache=cache).to_row() for source in (data, folder))
    assert found == expected
    (folder / "classes.txt").write_text("thing\nbackground\nanimal\n")
    with pytest.raises(UserError, match="class 'animal', which the masks of the training do not have"):
        segmenter.evaluate(folder, cache=cache)


@pytest.mark.parametrize(("ignore", "ending"), [(0, ".png"), (-1, ".npy"), (300, ".npy")])
def test_what_is_ignored_may_have_any_value(ignore: int, ending: str, tmp_path: Path) -> None:
    folder = segmentation_folder(tmp_path / "data", NAMES[:1])
    path = folder / "masks" / f"{NAMES[0]}.png"
    values = np.array(Image.open(path)).astype(np.int32)
    values[:9, :9], values[9:18, :9] = ignore, IGNORE
    path.unlink()
    path = path.with_suffix(ending)
    np.save(path, values) if ending == ".npy" else Image.fromarray(values.astype(np.uint8)).save(path)
    [mask] = Masks(open_pairs(folder), ignore)
    assert (mask[:18, :9] == IGNORE).all()
    assert (mask == IGNORE).sum() == (np.isin(values, [ignore, IGNORE])).sum()


def test_masks_without_labels_cannot_be_judged(segmenter: Segmenter, tmp_path: Path) -> None:
    folder = segmentation_folder(tmp_path / "data", NAMES[:1])
    change_mask(folder, np.full(SHAPE[:2], IGNORE, np.uint8))
    with pytest.raises(UserError, match="no labelled pixel"):
        segmenter.evaluate(folder)


def test_masks_without_labels_are_left_out(backbone: dinokit.Backbone, data: Path, tmp_path: Path) -> None:
    folder = segmentation_folder(tmp_path / "data")
    first = min((folder / "masks").iterdir())
    whole = Masks(open_pairs(folder))
    Image.fromarray(np.full_like(np.array(Image.open(first)), IGNORE)).save(first)
    masks = Masks(open_pairs(folder))
    assert masks.digest != whole.digest == Masks(open_pairs(data)).digest, "work on others is not gone on with"
    with pytest.warns(UserWarning, match=rf"{first.name} left out: no labelled pixel"):
        Segmenter(backbone, size=96).fit(
            folder, data, settings=FitSettings(steps=12, batch=1), cache=FeatureCache(tmp_path / "cache")
        )
    for path in (folder / "masks").iterdir():
        Image.fromarray(np.full_like(np.array(Image.open(path)), IGNORE)).save(path)
    with pytest.raises(UserError, match="have no labelled pixel"):
        Segmenter(backbone, size=96).fit(data, folder, cache=FeatureCache(tmp_path / "cache"))


@pytest.mark.parametrize("scales", [(float("nan"),), (0.0,), (-1.0,), ()])
def test_wrong_scales_are_named(segmenter: Segmenter, scales: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match="scales are"):
        segmenter.predict_with_care(PICTURES / f"{NAMES[0]}.jpg", scales)


def test_an_untrained_one_says_what_to_do(backbone: dinokit.Backbone) -> None:
    with pytest.raises(UserError, match="call fit"):
        Segmenter(backbone).predict(PICTURES / f"{NAMES[0]}.jpg")
