"""The page is whole: one file, nothing fetched, features that give back the cosines."""

import base64
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dinokit.errors import UserError
from dinokit.heads.patches import without_mean
from dinokit.report.bundled_photos import FOLDER, TWO_VIEWS, bundled_photos
from dinokit.report.demo_page import DemoPhoto, write_demo_page

ABOUT = {"model": "stand-in", "note": "</script><b>"}


def make_photo(name: str, seed: int, h: int = 6, w: int = 8) -> DemoPhoto:
    generator = np.random.default_rng(seed)
    return DemoPhoto(
        name=name,
        credit="nobody, CC0",
        picture=generator.integers(0, 255, (h * 16, w * 16, 3), dtype=np.uint8),
        patches=generator.normal(size=(h, w, 32)).astype(np.float32),
        cls=generator.normal(size=32).astype(np.float32),
    )


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    loaded: dict[str, Any] = json.loads(found[1])
    return loaded


def test_the_page_is_one_file_and_fetches_nothing(tmp_path: Path) -> None:
    path = write_demo_page([make_photo("a", 0), make_photo("b", 1, 5, 4)], (0, 1), "It is.", ABOUT, tmp_path / "new")
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["index.html"]
    page = path.read_text(encoding="utf-8")
    assert not re.search(r"https?://|<link|<script src|@import|fetch\(|XMLHttpRequest|url\(['\"]?(?!\$)", page)
    assert "/*DATA*/" not in page
    assert page.count("</script>") == 2, "text of a person must not end the script"


def test_stored_features_give_back_the_centred_cosines(tmp_path: Path) -> None:
    photos = [make_photo("a", 0), make_photo("b", 1, 5, 4)]
    data = data_of(write_demo_page(photos, None, "", ABOUT, tmp_path).read_text(encoding="utf-8"))
    entry = data["photos"][0]
    codes = np.frombuffer(base64.b64decode(entry["codes"]), np.int8).reshape(entry["rows"] * entry["cols"], -1)
    restored = codes * np.array(data["scales"])
    exact = without_mean([photo.patches for photo in photos])[0].reshape(48, -1)
    np.testing.assert_allclose(restored @ restored.T, exact @ exact.T, atol=0.02)
    for name, depth in (("own", 3), ("shared", 3), ("foreground", 1)):
        assert len(base64.b64decode(entry[name])) == 48 * depth


def test_neighbours_pair_and_words_are_in_the_data(tmp_path: Path) -> None:
    photos = [make_photo(name, seed) for seed, name in enumerate("abcde")]
    photos[4] = replace(photos[4], cls=photos[0].cls + 0.1)
    photos[3] = replace(photos[3], cls=-np.sum([photo.cls for photo in photos[:3]], axis=0))
    data = data_of(write_demo_page(photos, (1, 3), "It is.", ABOUT, tmp_path).read_text(encoding="utf-8"))
    assert data["lead"] == "It is."
    assert data["photos"][0]["nearest"][0][0] == 4
    assert data["photos"][3]["nearest"] == [], "what is not alike is not shown"
    assert (data["pair"]["first"], data["pair"]["second"]) == (1, 3)
    assert data["pair"]["matches"]
    assert data["about"] == ABOUT
    assert data["photos"][2]["credit"] == "nobody, CC0"


def test_one_photo_is_enough(tmp_path: Path) -> None:
    data = data_of(write_demo_page([make_photo("a", 0)], None, "", {}, tmp_path).read_text(encoding="utf-8"))
    assert data["pair"] is None
    assert data["photos"][0]["nearest"] == []


def test_an_unwritable_folder_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file"):
        write_demo_page([make_photo("a", 0)], None, "", {}, tmp_path / "file")


def test_the_bundled_photos_are_a_dozen_small_and_credited() -> None:
    photos = bundled_photos()
    files = sorted(FOLDER.glob("*.jpg"))
    assert sorted(photo.path for photo in photos) == files
    assert len(files) == 12
    assert sum(file.stat().st_size for file in files) <= 1_500_000
    assert set(TWO_VIEWS) <= {file.name for file in files}
    for photo in photos:
        assert re.search(r"CC0|CC BY \d\.\d$", photo.credit), photo
        assert re.search(r"^[^<>`]+; licence: https://creativecommons\.org/\S+$", photo.source), photo
        assert "CC0" in photo.credit or photo.source.count("https://") == 2, photo
        with Image.open(photo.path) as picture:
            assert max(picture.size) <= 640
