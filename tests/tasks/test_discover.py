"""What a person sees of discovery: the thing is found where it lies, and odd pictures are told, not crashed on."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dinokit.data.track import silent
from dinokit.data.video import open_video, video_writer
from dinokit.errors import UserError
from dinokit.inference.backbone import Backbone, load
from dinokit.tasks.discover import Discoverer
from dinokit.tasks.discover_files import DiscoverySettings, discover_files
from dinokit.tasks.discover_results import Discovery
from dinokit.tasks.discover_score import KnownObjects, score_boxes
from dinokit.tasks.task import MultiTask

PICTURES = Path(__file__).parents[1] / "pictures"
PLANE = PICTURES / "000000208901.jpg"
"""A plane in an empty sky."""


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load("dinokit_vitt16", device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def plane(backbone: Backbone) -> Discovery:
    found = Discoverer(backbone, 224).predict(PLANE)
    assert isinstance(found, Discovery)
    return found


def test_a_plane_stands_out_from_the_sky(plane: Discovery) -> None:
    height, width = plane.picture.shape[:2]
    x0, y0, x1, y1 = plane.boxes[0]
    assert 0.2 * width < x0 < x1 < 0.8 * width
    assert 0.2 * height < y0 < y1 < 0.8 * height
    assert plane.mask[int(y0 + y1) // 2, int(x0 + x1) // 2]
    assert not plane.mask[[0, 0, -1, -1], [0, -1, 0, -1]].any()
    assert plane.mask.shape == plane.scores.shape == (height, width)


def test_edges_follow_the_plane(backbone: Backbone, plane: Discovery) -> None:
    """Its pixels are darker than the sky: the refined mask holds less sky."""
    pytest.importorskip("cv2")
    refined = Discoverer(backbone, 224, refine=True).predict(PLANE)
    assert isinstance(refined, Discovery)
    np.testing.assert_array_equal(refined.boxes, plane.boxes)
    assert refined.picture[refined.mask].mean() < plane.picture[plane.mask].mean()


def test_refining_without_opencv_says_what_to_install(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UserError, match=r"pip install dinokit\[edges\]"):
        Discoverer(backbone, refine=True)


def test_results_are_files_that_others_read(plane: Discovery, tmp_path: Path) -> None:
    plane.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "mask.png")) == 255, plane.mask)
    plane.save(tmp_path / "boxes.json")
    content = json.loads((tmp_path / "boxes.json").read_text())
    x, y, width, height = content["annotations"][0]["bbox"]
    np.testing.assert_allclose([x, y, x + width, y + height], plane.boxes[0], atol=0.02)
    assert content["images"][0]["width"] == plane.picture.shape[1]
    assert plane.draw().shape == plane.picture.shape
    with pytest.raises(UserError, match="no ending that can be written"):
        plane.save(tmp_path / "mask.bmp")


def test_a_number_is_one_kind_in_all_pictures(backbone: Backbone, tmp_path: Path) -> None:
    discoverer = Discoverer(backbone, 160)
    picture = np.asarray(Image.open(PLANE).convert("RGB"))
    first, second, other = discoverer.segments([picture, picture.copy(), PICTURES / "000000126107.jpg"], count=4)
    np.testing.assert_array_equal(first.labels, second.labels)
    assert other.labels.max() < first.count == 4
    height, width = first.labels.shape
    assert first.labels[height // 2, width // 2] not in first.labels[[0, 0, -1, -1], [0, -1, 0, -1]]
    first.save(tmp_path / "segments.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "segments.png")), first.labels)


def test_colours_of_a_stream_are_learnt_from_its_first_pictures(backbone: Backbone) -> None:
    discoverer = Discoverer(backbone, 160)
    frames = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(PICTURES.glob("*.jpg"))[:3]]

    def stream() -> Iterator[np.ndarray]:
        yield from frames

    coloured = list(discoverer.colours_each(stream(), fit_on=1))
    assert len(coloured) == 3
    alone = discoverer.colours(frames[0])
    np.testing.assert_array_equal(coloured[0].colours, alone.colours)
    assert coloured[2].draw().shape == frames[2].shape


def test_colours_of_a_video_are_learnt_from_all_of_it(backbone: Backbone, tmp_path: Path) -> None:
    pytest.importorskip("av")
    frames = [np.asarray(Image.open(path).convert("RGB").resize((96, 64))) for path in sorted(PICTURES.glob("*.jpg"))]
    with video_writer(tmp_path / "clip.mkv") as write:
        for frame in frames[:3]:
            write(frame)
    discoverer = Discoverer(backbone, 64)
    coloured = discoverer.colours(tmp_path / "clip.mkv", fit_on=2)
    first, _, last = open_video(tmp_path / "clip.mkv")
    for ours, theirs in zip(coloured[::2], discoverer.colours([first, last]), strict=True):  # type: ignore[index]
        np.testing.assert_array_equal(ours.colours, theirs.colours)
    rows = discover_files(
        discoverer, [str(tmp_path / "clip.mkv")], tmp_path, DiscoverySettings("segments"), print, silent
    )
    assert [Path(row["files"][1]).name for row in rows] == [f"clip-{n:05d}-segments.png" for n in range(3)]


def test_a_click_is_most_alike_to_itself(backbone: Backbone) -> None:
    discoverer = Discoverer(backbone, 224)
    seen = discoverer.look_at(PLANE)
    height, width = seen.picture.shape[:2]
    sky = discoverer.similar(seen, (20, 20))
    assert sky.cells.max() == pytest.approx(1, abs=1e-4)
    assert sky.values[20, 20] == pytest.approx(1, abs=0.02)
    assert sky.values[height - 20, width - 20] > sky.values[height // 2, width // 2]
    middle = discoverer.similar(seen)
    assert middle.point == (width / 2, height / 2)
    assert middle.values[height // 2, width // 2] > middle.values[20, 20]


@pytest.mark.parametrize("point", [(-1, 5), (10_000, 5), (5, float("nan")), (5,), "here"])
def test_a_point_outside_is_refused(backbone: Backbone, point: object) -> None:
    with pytest.raises(UserError, match="the point"):
        Discoverer(backbone, 64).similar(PLANE, point)  # type: ignore[arg-type]


@settings(max_examples=8, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), value=st.integers(0, 255))
def test_nothing_stands_out_in_a_picture_without_texture(height: int, width: int, value: int) -> None:
    discoverer = Discoverer(load_once(), 32)
    found = discoverer.predict(np.full((height, width, 3), value, np.uint8))
    assert isinstance(found, Discovery)
    assert found.mask.shape == (height, width)
    assert np.isfinite(found.scores).all()
    assert len(found.boxes) == len(found.box_scores)
    assert found.mask.any() <= (len(found.boxes) > 0)
    assert found.draw().shape == (height, width, 3)


_LOADED: list[Backbone] = []


def load_once() -> Backbone:
    if not _LOADED:
        _LOADED.append(load("dinokit_vitt16", device="cpu", precision="fp32"))
    return _LOADED[0]


def test_nothing_stands_out_where_all_patches_are_alike(backbone: Backbone) -> None:
    discoverer = Discoverer(backbone, 64)
    seen = discoverer.look_at(PLANE)
    alike = torch.ones_like(seen.layers[0].patches)
    found = discoverer.read(replace(seen, layers=(replace(seen.layers[0], patches=alike),)))
    assert not found.mask.any()
    assert found.boxes.shape == (0, 4)


def test_wrong_settings_are_refused(backbone: Backbone) -> None:
    with pytest.raises(UserError, match="threshold"):
        Discoverer(backbone, threshold=2)
    with pytest.raises(UserError, match="too many"):
        Discoverer(backbone, 16).segments(np.zeros((16, 16, 3), np.uint8), count=2)
    with pytest.raises(UserError, match="count is 0"):
        Discoverer(backbone).segments(PLANE, count=0)


def test_it_shares_a_pass_with_other_jobs(backbone: Backbone, plane: Discovery) -> None:
    jobs = {"found": Discoverer(backbone, 224), "last": Discoverer(backbone, 224, layer=-1)}
    together = MultiTask(backbone, jobs).predict(PLANE)
    np.testing.assert_allclose(together["found"].boxes, plane.boxes)


def test_corloc_counts_pictures_whose_box_overlaps_an_object_by_more_than_half() -> None:
    known = [KnownObjects(Path(name), (40, 40), np.array([[0, 0, 10, 10], [20, 20, 30, 30.0]])) for name in "abc"]
    score = score_boxes([[20, 20, 30, 29], [0, 0, 10, 5], None], known)
    assert score.found.tolist() == [True, False, False]
    assert score.corloc == pytest.approx(100 / 3)
    assert score.overlap == pytest.approx((0.9 + 0.5) / 3)


def test_evaluation_reads_coco_files(backbone: Backbone, plane: Discovery, tmp_path: Path) -> None:
    x0, y0, x1, y1 = plane.boxes[0].tolist()
    box = [x0, y0, x1 - x0, y1 - y0]
    height, width = plane.mask.shape
    content = {
        "images": [{"id": 7, "file_name": "plane.jpg", "height": height, "width": width}],
        "annotations": [{"image_id": 7, "category_id": 1, "bbox": box}],
        "categories": [{"id": 1, "name": "plane"}],
    }
    (tmp_path / "plane.jpg").write_bytes(PLANE.read_bytes())
    file = tmp_path / "objects.json"
    file.write_text(json.dumps(content))
    assert Discoverer(backbone, 224).evaluate(file).corloc == 100
    content["images"][0]["width"] += 1
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"the boxes of .*plane.jpg are those of {width + 1} x {height} px"):
        Discoverer(backbone, 224).evaluate(file)
    content["annotations"] = []
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="no picture with an object"):
        Discoverer(backbone).evaluate(file)
