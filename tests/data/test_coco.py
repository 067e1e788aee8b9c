"""COCO files: the areas that they state, one class a pixel, and whatever can be wrong in them."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_labels import LABELS, NAMES, PICTURES

from dinokit.data.coco import draw_outline, read_coco
from dinokit.data.masks import IGNORE, read_mask
from dinokit.data.pairs import open_pairs
from dinokit.errors import UserError

FILE = LABELS / "coco.json"


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """The labels of the test pictures as a COCO file, with the pictures beside it."""
    (tmp_path / "images").mkdir()
    for name in NAMES:
        shutil.copy(PICTURES / f"{name}.jpg", tmp_path / "images")
    return Path(shutil.copy(FILE, tmp_path))


def test_areas_are_those_that_the_file_states(coco: Path) -> None:
    found = read_coco(coco)
    assert len(found.pictures) == len(NAMES)
    errors = [
        abs(found.mask(picture, instance).sum() - instance.area) / instance.area
        for picture in found.pictures
        for instance in picture.instances
        if not instance.crowd and instance.area > 100
    ]
    assert len(errors) > 20
    assert np.median(errors) < 0.03
    assert max(errors) < 0.15


def test_every_pixel_has_one_class(coco: Path) -> None:
    pairs = open_pairs(coco)
    assert pairs.class_names[:2] == ("background", "person")
    place = [Path(pairs.place(i)).stem for i in range(len(pairs))].index("000000126107")
    mask = read_mask(pairs, place)
    names = {pairs.class_names[value] for value in np.unique(mask) if value != IGNORE}
    assert {"background", "bird"} <= names
    alone = read_mask(pairs.part([place]), 0)
    assert np.array_equal(alone, mask)


def test_small_things_lie_over_large_ones(coco: Path) -> None:
    content = json.loads(coco.read_text())
    whole = {"id": 1, "image_id": content["images"][0]["id"], "category_id": 1, "bbox": [0, 0, 50, 50], "area": 2500}
    small = whole | {"id": 2, "category_id": 3, "bbox": [10, 10, 5, 5], "area": 25}
    content["annotations"] = [
        small | {"segmentation": [[10, 10, 15, 10, 15, 15, 10, 15]]},
        whole | {"segmentation": [[0, 0, 50, 0, 50, 50, 0, 50]]},
    ]
    coco.write_text(json.dumps(content))
    found = read_coco(coco)
    classes = found.classes(0, IGNORE)
    car = found.categories.index("car") + 1
    assert (classes == car).sum() == 25
    assert (classes == 1).sum() == 2475
    assert (classes[10:15, 10:15] == car).all()


def test_run_lengths_go_down_the_columns() -> None:
    outside = np.array([[0, 1, 1], [0, 1, 0]], dtype=bool)
    assert np.array_equal(draw_outline({"counts": [2, 3, 1], "size": [2, 3]}, 2, 3), outside)
    assert np.array_equal(draw_outline({"counts": "231", "size": [2, 3]}, 2, 3), outside)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no categories": ({"categories": None}, "is no COCO file"),
    "unknown category": ({"categories": [{"id": 1, "name": "person"}]}, "unknown category"),
    "no such picture": ({"images": [{"id": 1, "file_name": "no.jpg", "height": 5, "width": 5}]}, "is not found"),
    "no size": ({"images": [{"id": 1, "file_name": "a", "height": -5, "width": -5}]}, "has -5 x -5 px"),
    "huge picture": ({"images": [{"id": 1, "file_name": "a", "height": 10**6, "width": 10**6}]}, "give 1 to"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_is_named(coco: Path, kind: str) -> None:
    change, said = WRONG[kind]
    coco.write_text(json.dumps(json.loads(coco.read_text()) | change))
    with pytest.raises(UserError, match=said):
        read_coco(coco)


def test_run_lengths_that_wrap_around_are_refused() -> None:
    hostile = {"counts": [2**62, 2**62, 2**62, 2**62 + 16], "size": [4, 4]}  # 16 in all, to 64 bits
    with pytest.raises(ValueError, match="do not add up"):
        draw_outline(hostile, 4, 4)


@pytest.mark.parametrize("outline", [None, 5, [[1, 2, 3]], [["x"] * 6], {"counts": [1], "size": [9, 9]}, {"size": 1}])
def test_a_broken_outline_is_named(coco: Path, outline: Any) -> None:
    content = json.loads(coco.read_text())
    content["annotations"][0]["segmentation"] = outline
    coco.write_text(json.dumps(content))
    pairs = open_pairs(coco)
    changed = [picture.instances for picture in pairs.coco.pictures]  # type: ignore[attr-defined]
    [place] = [i for i, found in enumerate(changed) if any(one.outline == outline for one in found)]
    with pytest.raises(UserError, match="has no outline"):
        read_mask(pairs, place)


@pytest.mark.parametrize("content", [b"", b"[1, 2", b"{}", b"[]", b"\xff\xfe"])
def test_a_file_that_is_none_is_said(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.json"):
        read_coco(path)


def test_a_picture_of_another_size_is_said(coco: Path) -> None:
    content = json.loads(coco.read_text())
    content["images"][0]["width"] += 7
    coco.write_text(json.dumps(content))
    with pytest.raises(UserError, match="give the pictures of this file"):
        read_mask(open_pairs(coco), 0)
