"""Features that are kept on disk: the same as computed, bounded, shared by processes, damaged ones made anew."""

import errno
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from helpers_pictures import PHOTOS

import dinokit
from dinokit.backbones.features import Features, Grid
from dinokit.data.folder import Files
from dinokit.data.track import silent
from dinokit.errors import UserError
from dinokit.inference.cache import CacheWarning, FeatureCache, default_folder
from dinokit.inference.layers import Look
from dinokit.inference.stored_features import StoredFeatures

pytestmark = pytest.mark.usefixtures("one_thread")


def features(seed: int, side: int = 4) -> tuple[Features, ...]:
    generator = torch.Generator().manual_seed(seed)
    grid = Grid(side, side, ((64, 64),), ((70.0, 64.0),))
    patches = torch.randn(1, side, side, 8, generator=generator)
    return (Features(patches.mean((1, 2)), patches.new_empty(1, 0, 8), patches, grid),)


def test_what_was_put_comes_back(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    cache.put("ab12", features(0))
    found = cache.get("ab12")
    assert found is not None
    assert torch.allclose(found[0].patches.float(), features(0)[0].patches, atol=2e-3)
    assert found[0].grid == features(0)[0].grid
    assert cache.get("cd34") is None
    assert cache.info().entries == 1
    assert cache.clear().entries == 1
    assert cache.info().bytes == 0


@pytest.mark.parametrize("damage", [b"", b"x" * 50, "cut"])
def test_a_damaged_entry_is_made_anew(tmp_path: Path, damage: bytes | str) -> None:
    cache = FeatureCache(tmp_path)
    cache.put("ab12", features(0))
    [path] = (tmp_path / "features").glob("*/*")
    path.write_bytes(path.read_bytes()[:-20] if isinstance(damage, str) else damage)
    assert cache.get("ab12") is None
    cache.put("ab12", features(0))
    assert cache.get("ab12") is not None


def test_the_least_recently_used_go(tmp_path: Path) -> None:
    one = FeatureCache(tmp_path)
    one.put("00", features(0))
    size = one.info().bytes
    cache = FeatureCache(tmp_path, limit=int(size * 4.5))
    for number in range(1, 4):
        cache.put(f"{number:02d}", features(number))
        time.sleep(0.02)
    assert cache.get("00") is not None  # used now
    for number in range(4, 12):
        cache.put(f"{number:02d}", features(number))
        assert cache.info().bytes <= cache.limit
        assert cache.get("00") is not None
    assert cache.get("01") is None
    assert cache.get("11") is not None


@pytest.mark.parametrize(
    ("place", "limit", "said"),
    [(".", 100, "do not fit into a cache of 100"), ("file", 10**6, "cannot write .*file/.* \\(Not a directory\\)")],
)
def test_what_cannot_be_kept_is_said_once(place: str, limit: int, said: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = FeatureCache(tmp_path / place, limit)
    with pytest.warns(CacheWarning, match=rf"{said}; DINOKIT_CACHE names .*, DINOKIT_CACHE_LIMIT"):
        cache.put("ab", features(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.put("cd", features(1))
    assert cache.get("ab") is None


def test_a_set_beyond_the_limit_is_said(tmp_path: Path) -> None:
    backbone = dinokit.load("dinokit_vitt16", device="cpu", precision="fp32")
    pictures, look, one = Files(PHOTOS[:3], "photos"), Look((-1,), (96, 144)), 2 * 192 * (1 + 6 * 9)
    with pytest.warns(CacheWarning, match=r"of 3 pictures take .* anew .* DINOKIT_CACHE_LIMIT is larger, such as 1M"):
        StoredFeatures(backbone, pictures, look, FeatureCache(tmp_path / "small", 2 * one)).prepare(silent)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        StoredFeatures(backbone, pictures, look, FeatureCache(tmp_path / "large", 5 * one)).prepare(silent)


@pytest.mark.parametrize(("text", "limit"), [("", 10 << 30), ("50G", 50 << 30), ("1.5 TiB", 3 << 39), ("700", 700)])
def test_the_limit_can_be_set(text: str, limit: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DINOKIT_CACHE_LIMIT", text)
    assert FeatureCache(tmp_path).limit == limit
    monkeypatch.setenv("DINOKIT_CACHE_LIMIT", f"{text}X")
    with pytest.raises(UserError, match=r"DINOKIT_CACHE_LIMIT is .*X': give bytes"):
        FeatureCache(tmp_path)


def test_entries_of_other_people_are_read_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(errno.EPERM, "not your file")

    cache = FeatureCache(tmp_path)
    cache.put("ab12", features(0))
    monkeypatch.setattr(os, "utime", refuse)
    assert cache.get("ab12") is not None
    assert cache.get("ab12") is not None


WRITER = """
import sys, torch
from pathlib import Path
from dinokit.backbones.features import Features, Grid
from dinokit.inference.cache import FeatureCache
cache, patches = FeatureCache(Path(sys.argv[1]), limit=60_000), torch.zeros(1, 4, 4, 8)
for number in range(300):
    grid, one = Grid(4, 4, ((64, 64),)), patches + number % 20
    cache.put(f"{number % 20:02d}", [Features(one.mean((1, 2)), one.new_empty(1, 0, 8), one, grid)])
    cache.get(f"{number * 7 % 20:02d}")
    if number % 50 == 0:
        cache.clear()
"""


def test_processes_share_it(tmp_path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)]) for _ in range(2)]
    assert [writer.wait(120) for writer in writers] == [0, 0]
    found = {number: FeatureCache(tmp_path).get(f"{number:02d}") for number in range(20)}
    kept = {number: one for number, one in found.items() if one is not None}
    assert kept
    assert all((one[0].patches == number).all() for number, one in kept.items())


def test_the_folder_can_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DINOKIT_CACHE", str(tmp_path))
    assert default_folder() == tmp_path


def test_features_of_pictures_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = dinokit.load("dinokit_vitt16", device="cpu", precision="fp32")
    look, cache = Look((2, -1), 96), FeatureCache(tmp_path)
    pictures = Files(PHOTOS[:3], "photos")
    store = StoredFeatures(backbone, pictures, look, cache)
    computed = [store[i] for i in range(3)]
    assert [f.patches.shape[-1] for f in computed[0]] == [192, 192]
    expected = backbone.encode(PHOTOS[1], size=96)
    assert torch.allclose(computed[1][1].patches, expected.patches, atol=1e-4)
    monkeypatch.setattr(store, "_encode", lambda *_: pytest.fail("it is kept already"))
    store.prepare(silent)
    assert torch.allclose(store[1][1].patches.float(), computed[1][1].patches, atol=1e-2)


def test_other_weights_sizes_and_layers_are_other_features(tmp_path: Path) -> None:
    cache, pictures = FeatureCache(tmp_path), Files(PHOTOS[:1], "photos")
    models = ("random:dinokit_vitt16:0", "random:dinokit_vitt16:1")
    backbones = [dinokit.load(model, device="cpu", precision="fp32") for model in models]
    looks = [Look((-1,), 64), Look((-1,), 96), Look((-2,), 64)]
    for backbone in backbones:
        for look in looks:
            StoredFeatures(backbone, pictures, look, cache).prepare(silent)
    assert cache.info().entries == 6
    network = backbones[0].network
    with torch.no_grad():
        network.norm.weight.mul_(2)
    backbones[0].refresh()
    StoredFeatures(backbones[0], pictures, looks[0], cache).prepare(silent)
    assert cache.info().entries == 7
