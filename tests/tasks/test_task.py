"""Several jobs on one pass of the backbone."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers_labels import NAMES, PICTURES, segmentation_folder
from PIL import Image

import dinokit
from dinokit.data.track import silent
from dinokit.errors import UserError
from dinokit.heads.fit import FitSettings
from dinokit.heads.probe import measure_knn
from dinokit.images.kinds import Finding
from dinokit.images.read import ReadError, Source
from dinokit.inference.backbone import Backbone
from dinokit.inference.cache import FeatureCache
from dinokit.inference.embed import EmbedSettings, embed_pictures
from dinokit.tasks.results import each_readable
from dinokit.tasks.segment import Segmenter

pytestmark = pytest.mark.usefixtures("one_thread")
PICTURE = PICTURES / f"{NAMES[0]}.jpg"


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Segmenter]:
    backbone = dinokit.load("dinokit_vitt16", device="cpu", precision="fp32")
    data = segmentation_folder(tmp_path_factory.mktemp("data"))
    cache = FeatureCache(tmp_path_factory.mktemp("cache"))
    made = {"fine": Segmenter(backbone, 128, (-1, -3)), "coarse": Segmenter(backbone, 128, (5,))}
    for job in made.values():
        job.fit(data, settings=FitSettings(steps=5, batch=2), cache=cache)
    return made


def test_each_head_says_what_it_says_alone(jobs: dict[str, Segmenter], monkeypatch: pytest.MonkeyPatch) -> None:
    alone = {name: job.predict(PICTURE) for name, job in jobs.items()}
    passes: list[int] = []
    encode = Backbone.encode_layers
    monkeypatch.setattr(Backbone, "encode_layers", lambda *given: passes.append(1) or encode(*given))
    together = dinokit.MultiTask(jobs["fine"].backbone, jobs).predict(PICTURE)
    assert len(passes) == 1
    for name, result in alone.items():
        assert np.allclose(together[name].confidence, result.confidence, atol=1e-5)
        assert (together[name].labels == result.labels).mean() > 0.999


def test_several_pictures_give_a_list(jobs: dict[str, Segmenter]) -> None:
    results = dinokit.MultiTask(jobs["fine"].backbone, jobs, size=64).predict([PICTURE, PICTURE])
    assert [sorted(result) for result in results] == [["coarse", "fine"]] * 2


def test_jobs_of_another_backbone_are_refused(jobs: dict[str, Segmenter]) -> None:
    other = dinokit.load("dinokit_vitt16", device="cpu", precision="fp32")
    with pytest.raises(UserError, match="fine has another backbone"):
        dinokit.MultiTask(other, jobs)
    with pytest.raises(UserError, match="no jobs"):
        dinokit.MultiTask(other, {})
    with pytest.raises(UserError, match="no jobs"):
        dinokit.MultiTask(jobs["fine"].backbone, list(jobs.values()))  # type: ignore[arg-type]


def test_the_largest_short_side_suits_all(jobs: dict[str, Segmenter]) -> None:
    backbone = jobs["fine"].backbone
    oblong, native = Segmenter(backbone, (320, 160)), Segmenter(backbone, "native")
    assert dinokit.MultiTask(backbone, {**jobs, "oblong": oblong}).look.size == 160
    assert dinokit.MultiTask(backbone, {**jobs, "native": native}).look.size == "native"


def test_jobs_look_in_the_same_tiles_or_not_together(jobs: dict[str, Segmenter]) -> None:
    backbone = jobs["fine"].backbone
    tiled = {"a": Segmenter(backbone, 128, tile=64), "b": Segmenter(backbone, 96, tile=64)}
    assert dinokit.MultiTask(backbone, tiled).look.tile == 64
    with pytest.raises(UserError, match=r"tiles of 64 \(a\), .*None \(fine\)"):
        dinokit.MultiTask(backbone, {**tiled, **jobs})


def test_layers_that_there_are_not(jobs: dict[str, Segmenter]) -> None:
    with pytest.raises(UserError, match="there is no block 12"):
        Segmenter(jobs["fine"].backbone, layers=(12,))


def test_a_missing_picture_is_named(jobs: dict[str, Segmenter], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.jpg"):
        jobs["fine"].predict(tmp_path / "none.jpg")


def test_features_that_are_not_finite_are_named() -> None:
    broken = dinokit.load("dinokit_vitt16", device="cpu", precision="fp32")
    with torch.no_grad():
        broken.network.cls_token.fill_(float("nan"))  # type: ignore[operator]
    broken.refresh()
    with Image.open(PICTURE) as image:
        mask = np.ones((image.height, image.width), np.uint8)
    jobs: dict[str, Callable[[], Any]] = {
        PICTURE.name: lambda: dinokit.Segmenter(broken, 64).predict([PICTURE]),
        "frame 0": lambda: next(dinokit.Tracker(broken, 64).predict([PICTURE], mask)),
        "the first picture": lambda: dinokit.Matcher(broken, 64).locate([[9, 9]], PICTURE, PICTURE),
    }
    for name, work in jobs.items():
        with pytest.raises(UserError, match=f"the features of .*{name} are not finite: take --precision fp32"):
            work()


def test_jobs_are_found_by_name() -> None:
    assert dinokit.Segmenter is Segmenter
    assert "MultiTask" in dir(dinokit)
    with pytest.raises(AttributeError):
        dinokit.Nothing  # noqa: B018


def test_pictures_are_handed_on_one_by_one_and_broken_ones_left_out() -> None:
    given: list[int] = []

    def predict(part: Sequence[Source]) -> Iterator[str]:
        if "broken" in part:
            raise ReadError("broken", Finding("is broken", ""))
        for one in part:
            given.append(len(given))
            yield f"{one} seen"

    warnings: list[str] = []
    found = each_readable(predict, ["a", "b", "c", "broken", "d"], warnings.append, together=3)
    assert next(found) == (0, "a seen")
    assert given == [0], "the others are not held"
    assert list(found) == [(1, "b seen"), (2, "c seen"), (4, "d seen")]
    assert len(warnings) == 1


def test_networks_of_one_channel_serve_as_well(tmp_path: Path) -> None:
    grey = dinokit.load("random:dinokit_vitt16", in_channels=1)
    matcher = dinokit.Matcher(grey, 96)
    results = [dinokit.Discoverer(grey, 96).predict(PICTURE), matcher.predict(PICTURE, PICTURE)]
    drawn = [one.draw() for one in (*results, matcher.locate([[40, 40]], PICTURE, PICTURE))]
    table = tmp_path / "t.parquet"
    embed_pictures([str(PICTURE)], table, grey, EmbedSettings(96), lambda items, *_: items, print)
    drawn.append(dinokit.Collection(table, grey).search(PICTURE).draw())
    assert all(picture.dtype == np.uint8 and picture.shape[2] == 3 for picture in drawn)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        shutil.copy(PICTURE, tmp_path / name)
    found = measure_knn(grey, bank=str(tmp_path), query=str(tmp_path), k=1, size=96, track=silent)
    assert found["bank"] == 2
