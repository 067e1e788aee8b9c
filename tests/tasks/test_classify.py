"""Classification: heads learn from labelled pictures, say what they see, and everything that can be wrong is said."""

import csv
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from helpers_classes import CLASSES, class_folders, pairs_csv
from helpers_golden import load_golden

import dinokit
from dinokit.backbones.rope import RopeSpec
from dinokit.backbones.vit import VisionTransformer, ViTSpec
from dinokit.checkpoints.model import LoadedModel, ModelInfo
from dinokit.cli.app import main
from dinokit.errors import UserError
from dinokit.heads.fit import FitSettings
from dinokit.heads.fit_classifier import Method
from dinokit.heads.pooling import Pooling
from dinokit.heads.published_heads import POOLING
from dinokit.inference.cache import FeatureCache
from dinokit.tasks.classify import Classifier, default_features

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE = 96
QUICK = FitSettings(steps=60, batch=16, validate_every=20, patience=1)


@pytest.fixture(scope="module")
def backbone() -> dinokit.Backbone:
    return dinokit.load("dinokit_vitt16", device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classes")
    class_folders(folder / "train", 8, seed=0)
    class_folders(folder / "test", 5, seed=1)
    pairs_csv(folder / "pairs-train", 40, seed=2)
    pairs_csv(folder / "pairs-test", 12, seed=3)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    return FeatureCache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def classifier(backbone: dinokit.Backbone, data: Path, cache: FeatureCache) -> Classifier:
    classifier = Classifier(backbone, SIZE)
    classifier.fit(data / "train", cache=cache)
    return classifier


@pytest.mark.parametrize("method", get_args(Method))
def test_each_method_learns_and_survives_saving(
    method: str, backbone: dinokit.Backbone, data: Path, cache: FeatureCache, tmp_path: Path
) -> None:
    made = Classifier(backbone, SIZE, method=method)  # type: ignore[arg-type]
    trained = made.fit(data / "train", cache=cache, settings=QUICK if method == "linear" else None)
    score = made.evaluate(data / "test", cache=cache)
    assert made.classes == CLASSES
    assert trained.score > 60
    assert score.top1 > 70  # one in four by chance
    assert score.confusion.sum() == 20
    assert len(score.mistakes) == 20 - np.diag(score.confusion).sum()
    made.save(tmp_path / "head")
    again = Classifier.load(tmp_path / "head", backbone)
    assert again.evaluate(data / "test", cache=cache).to_row() == score.to_row()
    one, other = (each.predict(data / "test" / "train" / "0.jpg") for each in (made, again))
    assert np.allclose(one.probabilities, other.probabilities)  # type: ignore[union-attr]
    assert one.probabilities.sum() == pytest.approx(1, abs=1e-5)  # type: ignore[union-attr]


@pytest.mark.parametrize("method", ["logistic", "ridge", "linear"])
def test_patches_of_an_earlier_block(
    method: str, backbone: dinokit.Backbone, data: Path, cache: FeatureCache, tmp_path: Path
) -> None:
    signed = method != "logistic"
    pooling = default_features(backbone, method, 2, 2, layer=7, signed=signed)  # type: ignore[arg-type]
    assert (pooling, pooling.layers) == (Pooling(2, 2, -5, signed), (-5, -4, -3, -2, -1))
    made = Classifier(backbone, SIZE, method, pooling)  # type: ignore[arg-type]
    made.fit(data / "train", cache=cache, settings=QUICK if method == "linear" else None)
    picture = data / "test" / "train" / "0.jpg"
    assert made.evaluate(data / "test", cache=cache).top1 > 60
    made.save(tmp_path / "head")
    again = Classifier.load(tmp_path / "head", backbone)
    assert again.pooling == made.pooling
    one, other = (each.predict(picture) for each in (made, again))
    assert np.allclose(one.probabilities, other.probabilities)  # type: ignore[union-attr]


def test_several_labels(backbone: dinokit.Backbone, data: Path, cache: FeatureCache, tmp_path: Path) -> None:
    for method in ("logistic", "ridge", "knn"):
        made = Classifier(backbone, SIZE, method=method, features=Pooling(2, 2))  # type: ignore[arg-type]
        made.fit(data / "pairs-train" / "labels.csv", cache=cache)
        score = made.evaluate(data / "pairs-test" / "labels.csv", cache=cache)
        assert made.several
        assert np.isnan(score.top1)
        assert score.mean_ap > 65  # a half by chance
        made.save(tmp_path / method)
        assert Classifier.load(tmp_path / method, backbone).several
    results = made.predict([data / "pairs-test" / f"{n}.jpg" for n in range(5)])
    assert {name for result in results for name in result.labels} <= set(CLASSES)  # type: ignore[union-attr]
    plain = Classifier(backbone, SIZE)
    plain.fit(data / "train", cache=cache)
    with pytest.raises(UserError, match="has pictures with several labels"):
        plain.evaluate(data / "pairs-test" / "labels.csv", cache=cache)


def test_validation_pictures_choose_and_the_same_input_gives_the_same_head(
    backbone: dinokit.Backbone, data: Path, cache: FeatureCache
) -> None:
    found = [Classifier(backbone, SIZE).fit(data / "train", data / "test", cache=cache) for _ in range(2)]
    assert found[0].score == max(found[0].scores.values())
    assert all(
        torch.equal(one, other)
        for one, other in zip(found[0].head.state_dict().values(), found[1].head.state_dict().values(), strict=True)
    )


def test_more_pictures_do_better(backbone: dinokit.Backbone, data: Path, cache: FeatureCache) -> None:
    made = Classifier(backbone, SIZE)
    one, several = made.few_shot(data / "train", data / "test", counts=(1, 6), draws=3, cache=cache)
    assert (one.count, several.count, len(one.scores)) == (1, 6, 3)
    assert several.mean > one.mean
    assert one.deviation == pytest.approx(np.std(one.scores, ddof=1))
    with pytest.raises(UserError, match="the smallest class has 8"):
        made.few_shot(data / "train", data / "test", counts=(9,), cache=cache)


def test_results_are_drawn_and_written(classifier: Classifier, data: Path, cache: FeatureCache, tmp_path: Path) -> None:
    result = classifier.predict(data / "test" / "pizza" / "0.jpg")
    assert not isinstance(result, list)
    picture = result.draw()
    assert picture.dtype == np.uint8
    assert picture.shape[0] == 320
    result.save(tmp_path / "one.json")
    stored = json.loads((tmp_path / "one.json").read_text())
    assert stored["labels"] == [result.label]
    assert next(iter(stored["probabilities"])) == result.label
    result.save(tmp_path / "one.csv")
    rows = list(csv.reader((tmp_path / "one.csv").open()))
    assert rows[0] == ["class", "probability"]
    assert rows[1][0] == result.label
    with pytest.raises(UserError, match="no ending"):
        result.save(tmp_path / "one.xml")
    score = classifier.evaluate(data / "test", cache=cache)
    assert score.draw_confusion().ndim == 3
    if score.mistakes:
        assert score.draw_mistakes().shape[2] == 3


def test_the_published_classifier(tmp_path: Path) -> None:
    tensors, facts = load_golden("heads_linear_classifier")
    options = facts["backbone_options"]
    spec = ViTSpec(
        width=48,
        depth=2,
        heads=2,
        ffn_hidden=96,
        patch_size=16,
        registers=options["n_storage_tokens"],
        mask_k_bias=True,
        layer_scale=options["layerscale_init"],
        rope=RopeSpec(rescale=2),
    )
    network = VisionTransformer(spec)
    backbone_state = {key.removeprefix("backbone."): tensors[key] for key in tensors if key.startswith("backbone.")}
    network.load_state_dict(backbone_state)
    backbone = dinokit.Backbone(LoadedModel(network, ModelInfo("golden", spec)), "cpu", "fp32")
    path = tmp_path / "linear_head.pth"
    torch.save({"weight": tensors["state.weight"], "bias": tensors["state.bias"]}, path)
    made = Classifier.from_published(path, backbone)
    vector = POOLING.vector([POOLING.reduce(backbone(tensors["in.image"]))])
    assert (vector - tensors["out.linear_input"]).abs().max() < 1e-4
    assert made.head is not None
    assert (made.head(vector) - tensors["out.logits"]).abs().max() < 1e-4
    assert made.classes == tuple("0123456789")
    assert Classifier.from_published(path, backbone, classes=list("abcdefghij")).classes[2] == "c"
    with pytest.raises(UserError, match="2 names for the 10 classes"):
        Classifier.from_published(path, backbone, classes=["a", "b"])
    with pytest.raises(UserError, match="takes 96 numbers, this backbone gives 384"):
        Classifier.from_published(path, dinokit.load("random:dinokit_vitt16"))


def test_bad_input_is_named(backbone: dinokit.Backbone, classifier: Classifier, data: Path, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "cache")
    fresh = Classifier(backbone, SIZE)
    with pytest.raises(UserError, match="has not learnt any classes"):
        fresh.predict(data / "test" / "dog" / "0.jpg")
    with pytest.raises(UserError, match="the one class 'dog'"):
        fresh.fit(class_folders(tmp_path / "one", 2, 0, ("dog",)), cache=cache)
    single = class_folders(tmp_path / "single", 3, 0, ("dog", "pizza"))
    for number in (1, 2):
        (single / "pizza" / f"{number}.jpg").unlink()
    with pytest.raises(UserError, match=r"the class 'pizza' of .*single has 1 picture: .* others for validation"):
        fresh.fit(single, cache=cache)
    (single / "empty").mkdir()
    with pytest.raises(UserError, match=r"class folder .*empty has no pictures"):
        fresh.fit(single, cache=cache)
    with pytest.raises(UserError, match="has the class 'cat', which the training did not have"):
        classifier.evaluate(class_folders(tmp_path / "strange", 1, 0, ("cat", "dog")), cache=cache)
    with pytest.raises(UserError, match="k belongs to the method knn"):
        fresh.fit(data / "train", k=3, cache=cache)
    classifier.save(tmp_path / "head")
    with pytest.raises(
        UserError, match=r"was trained on dinokit_vitt16 with other weights|was trained on dinokit_vitt16"
    ):
        Classifier.load(tmp_path / "head", dinokit.load("random:dinokit_vitt16"))
    config = json.loads((tmp_path / "head" / "config.json").read_text())
    config["settings"]["blocks"] = 2
    (tmp_path / "head" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"config\.json is damaged .* for 960 numbers a picture, the settings for 576"):
        Classifier.load(tmp_path / "head", backbone)
    config["settings"].pop("blocks")
    (tmp_path / "head" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        Classifier.load(tmp_path / "head", backbone)
    config.pop("job")
    (tmp_path / "head" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="no head's config"):
        Classifier.load(tmp_path / "head", backbone)


def test_a_second_fit_sweeps_as_widely(backbone: dinokit.Backbone, data: Path, cache: FeatureCache) -> None:
    made = Classifier(backbone, SIZE, "linear")
    first, second = (made.fit(data / "train", cache=cache, settings=QUICK) for _ in range(2))
    assert second.scores == first.scores


@pytest.mark.parametrize(("change", "done_before"), [("nothing", 40), ("cells", 0), ("a class", 0)])
def test_an_interrupted_sweep_goes_on_where_all_is_the_same(
    change: str, done_before: int, backbone: dinokit.Backbone, data: Path, cache: FeatureCache, tmp_path: Path
) -> None:
    folder, keep = shutil.copytree(data / "train", tmp_path / "train"), tmp_path / "progress.pt"
    begun: list[int] = []

    def track(items: Iterable[Any], total: int, label: str, done: int = 0) -> Iterator[Any]:
        if label == "training linear heads":
            begun.append(done)
        for number, item in enumerate(items, 1):
            yield item
            if len(begun) == 1 and number == 40:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Classifier(backbone, SIZE, "linear").fit(folder, cache=cache, settings=QUICK, track=track, keep=keep)
    if change == "a class":
        (folder / "dog").rename(folder / "wolf")
    made = Classifier(backbone, SIZE, "linear", Pooling(4, 2 if change == "cells" else 1))
    made.fit(folder, cache=cache, settings=QUICK, track=track, keep=keep)
    assert begun == [0, done_before]


@pytest.mark.filterwarnings("ignore::dinokit.checkpoints.model.AssumptionWarning")
@pytest.mark.parametrize("layout", ["dinokit", "meta"])
def test_a_head_finds_the_model_it_was_trained_on(
    layout: str, backbone: dinokit.Backbone, data: Path, cache: FeatureCache, tmp_path: Path
) -> None:
    """The path counts, not the name: every run is called like the bundled model."""
    other = dinokit.load("random:dinokit_vitt16:1", device="cpu", precision="fp32")
    own = dinokit.save(other, tmp_path / "own", layout)
    if layout == "dinokit":
        own = own.parent
        config = json.loads((own / "config.json").read_text())
        (own / "config.json").write_text(json.dumps(config | {"name": "dinokit_vitt16"}))
    own.rename(tmp_path / f"mine{own.suffix}")
    own = tmp_path / f"mine{own.suffix}"
    made = Classifier(dinokit.load(own, device="cpu", precision="fp32"), SIZE, "knn")
    made.fit(data / "train", cache=cache)
    made.save(tmp_path / "head")
    assert Classifier.load(tmp_path / "head").backbone.fingerprint == made.backbone.fingerprint
    with pytest.raises(UserError, match=rf"not on this backbone: name it with --model \({own}\)"):
        Classifier.load(tmp_path / "head", backbone)
    own.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=rf"was trained on {own}, which is not found: name .* with --model"):
        Classifier.load(tmp_path / "head")


def test_a_head_replaces_no_model(classifier: Classifier, backbone: dinokit.Backbone, tmp_path: Path) -> None:
    dinokit.save(backbone, tmp_path / "model")
    with pytest.raises(UserError, match="holds something else"):
        classifier.save(tmp_path / "model")
    assert dinokit.load(tmp_path / "model").info == backbone.info
    dinokit.save(backbone, tmp_path / "run" / "model")
    with pytest.raises(UserError, match="holds something else"):
        classifier.save(tmp_path / "run")
    for _ in range(2):
        classifier.save(tmp_path / "head")


def test_features_that_are_not_finite_are_named(data: Path, tmp_path: Path) -> None:
    broken = dinokit.load("dinokit_vitt16", device="cpu", precision="fp32")
    with torch.no_grad():
        broken.network.cls_token.fill_(float("nan"))  # type: ignore[operator]
    broken.refresh()
    with pytest.raises(UserError, match=r"features of .*0\.jpg are not finite"):
        Classifier(broken, SIZE).fit(data / "train", cache=FeatureCache(tmp_path))


def test_a_published_head_is_judged_by_the_names_of_a_file(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DINOKIT_CACHE", str(tmp_path / "cache"))
    file, names = tmp_path / "head.pth", tmp_path / "names.txt"
    torch.save({"weight": torch.zeros(len(CLASSES), 384), "bias": torch.arange(len(CLASSES)).float()}, file)
    names.write_text("\n".join(CLASSES))
    judge = ("classify", "evaluate", str(file), str(data / "test"), "--model", "dinokit_vitt16", "--json")
    assert main([*judge]) == 2
    assert "which the training did not have" in capsys.readouterr().err
    assert main([*judge, "--classes", str(names)]) == 0
    assert json.loads(capsys.readouterr().out)["by_class"][CLASSES[-1]] == 100
    assert main(["classify", "evaluate", str(tmp_path), str(data / "test"), "--classes", str(names)]) == 2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("fit {data} --out {data}/head --seed 1", "--seed belongs to the method linear: leave it out"),
        ("predict {data}/head {data} --top 0", "--top is 0: give the number of classes"),
        ("predict {data}/head {data} --top -1", "--top is -1"),
        ("fit {data}/train --out {data}/head --blocks 13", "blocks is 13: the network has 12"),
        ("fit {data}/train --out {data}/head --method knn --signed", "signed is of the patches, and none are read"),
    ],
)
def test_options_without_a_meaning_are_refused(
    line: str, said: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["classify", *line.format(data=data).split()]) == 2
    assert said in capsys.readouterr().err


def test_the_command_line(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DINOKIT_CACHE", str(tmp_path / "cache"))
    head = str(tmp_path / "head")
    assert main(["classify", "fit", str(data / "train"), "--out", head, "--size", "96", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["classes"] == list(CLASSES)
    table = tmp_path / "predictions.csv"
    assert main(["classify", "predict", head, str(data / "test"), "--out", str(table)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 20
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    assert main(["classify", "predict", head, str(data / "test"), str(broken), "--out", str(table)]) == 0
    assert "broken.jpg" in capsys.readouterr().err
    rows = list(csv.DictReader(table.open()))
    assert len(rows) == 20
    assert list(rows[0]) == ["path", "label", "probability", *CLASSES]
    right = sum(row["label"] == Path(row["path"]).parent.name for row in rows)
    pictures = ["--confusion", str(tmp_path / "c.png"), "--mistakes", str(tmp_path / "m.jpg")]
    assert main(["classify", "evaluate", head, str(data / "test"), *pictures, "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert (tmp_path / "m.jpg").is_file() != ("no mistakes" in captured.err)
    assert found["top1"] == pytest.approx(100 * right / 20)
    assert (tmp_path / "c.png").is_file()
    test = ["--test", str(data / "test"), "--counts", "1", "2", "--draws", "2", "--method", "ridge"]
    look = ["--size", "96", "--blocks", "1", "--cells", "2", "--layer", "-4", "--signed"]
    assert main(["classify", "fewshot", str(data / "train"), *test, *look]) == 0
    assert capsys.readouterr().out.startswith("1 of each class: top-1 ")
    assert main(["classify", "evaluate", head, str(data / "test"), "--confusion", "c.xyz"]) == 2
    assert "c.xyz has no ending" in capsys.readouterr().err
    (tmp_path / "folder.csv").mkdir()
    assert main(["classify", "predict", head, str(data / "test"), "--out", str(tmp_path / "folder.csv")]) == 2
    assert "folder.csv (Is a directory): choose another place with --out" in capsys.readouterr().err
