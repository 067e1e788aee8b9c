"""Weighted nearest neighbours: the vote, its batches, and the measurement on pictures."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import dinokit
from dinokit.data.opening import open_pictures
from dinokit.errors import UserError
from dinokit.heads import probe, similar
from dinokit.heads.knn import knn_accuracy, knn_scores
from dinokit.heads.probe import measure_knn


def test_votes_equal_the_definition_written_out() -> None:
    generator = torch.Generator().manual_seed(0)
    bank, queries = torch.randn(40, 8, generator=generator), torch.randn(5, 8, generator=generator)
    labels = torch.randint(0, 3, (40,), generator=generator)
    scores = knn_scores(bank, labels, queries, classes=3, k=7, temperature=0.07)
    for query, found in zip(queries, scores, strict=True):
        cosines = [float(query @ row / query.norm() / row.norm()) for row in bank]
        nearest = sorted(range(40), key=lambda i: -cosines[i])[:7]
        expected = [sum(np.exp(cosines[i] / 0.07) for i in nearest if labels[i] == c) for c in range(3)]
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32), rtol=1e-3, atol=1e-2)


def test_batches_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, queries, labels = torch.randn(30, 4), torch.randn(11, 4), torch.randint(0, 4, (30,))
    whole = knn_scores(bank, labels, queries, classes=4, k=5)
    monkeypatch.setattr(similar, "_SCORES", 2 * 7)
    monkeypatch.setattr(similar, "_ROWS", 7)
    torch.testing.assert_close(knn_scores(bank, labels, queries, classes=4, k=5), whole, rtol=1e-4, atol=1e-3)


def test_accuracy_of_separated_classes_is_full() -> None:
    features = torch.eye(3).repeat_interleave(10, 0)
    labels = torch.arange(3).repeat_interleave(10)
    accuracy = knn_accuracy((features, labels), (features, labels), k=5)
    assert (accuracy.top1, accuracy.top5) == (100.0, 100.0)


def test_more_neighbours_than_pictures_is_named() -> None:
    with pytest.raises(UserError, match="k = 20 neighbours of a bank of 3"):
        knn_scores(torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64), torch.zeros(1, 2), classes=1)


def test_colours_are_told_apart_on_real_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for part in ("bank", "query"):
        for name, colour in (("red", (220, 30, 30)), ("blue", (30, 30, 220))):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for number in range(6):
                pixels = np.clip(rng.normal(colour, 25, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    backbone = dinokit.load("random:dinokit_vitt16")
    found = measure_knn(
        backbone,
        bank=str(tmp_path / "bank"),
        query=str(tmp_path / "query"),
        k=3,
        size=32,
        track=lambda items, *_: items,
    )
    assert found["top1"] == 100.0
    assert (found["k"], found["bank"], found["query"]) == (3, 12, 12)
    assert found["images_per_second"] > 0


def make_set(folder: Path, classes: str, count: int = 2) -> str:
    """Pictures of one colour a class, whatever else the set has."""
    colours = {"red": (220, 30, 30), "blue": (30, 30, 220), "green": (30, 220, 30)}
    for name in classes.split():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (32, 32), colours[name]).save(folder / name / f"{number}.png")
    return str(folder)


def measure(bank: str, query: str, k: int = 1) -> dict[str, Any]:
    backbone = dinokit.load("random:dinokit_vitt16")
    return measure_knn(backbone, bank=bank, query=query, k=k, size=32, track=lambda items, *_: items)


def test_classes_are_the_same_where_their_names_are(tmp_path: Path) -> None:
    bank = make_set(tmp_path / "bank", "blue green red")
    assert measure(bank, make_set(tmp_path / "query", "green red"))["top1"] == 100.0
    with pytest.raises(UserError, match=r"has the class 'green', which --bank .* does not have"):
        measure(make_set(tmp_path / "other", "blue red"), bank)


def make_shard(path: Path, labels: Sequence[int], classes: str = "") -> str:
    path.parent.mkdir()
    if classes:
        (path.parent / "classes.txt").write_text("\n".join(classes.split()))
    picture = io.BytesIO()
    Image.new("RGB", (32, 32)).save(picture, "PNG")
    with tarfile.open(path, "w") as archive:
        for number, label in enumerate(labels):
            for extension, content in (("png", picture.getvalue()), ("cls", str(label).encode())):
                member = tarfile.TarInfo(f"{number}.{extension}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return str(path)


def test_shards_without_names_keep_their_numbers(tmp_path: Path) -> None:
    named = open_pictures(make_shard(tmp_path / "a" / "a.tar", [0, 1, 2], "red green blue"))
    unnamed = open_pictures(make_shard(tmp_path / "b" / "b.tar", [2, 0, 1]))
    other = open_pictures(make_shard(tmp_path / "c" / "c.tar", [0, 1], "blue red"))
    assert probe._numbers_in_bank(named, unnamed).tolist() == [0, 1, 2]
    assert probe._numbers_in_bank(named, other).tolist() == [2, 0]
    with pytest.raises(UserError, match="has the class '0' and 2 more"):
        probe._numbers_in_bank(open_pictures(make_set(tmp_path / "d", "red blue")), unnamed)


def test_unreadable_pictures_are_left_out_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_CHUNK", 2)
    bank, query = make_set(tmp_path / "bank", "blue red", 4), make_set(tmp_path / "query", "red")
    for name in ("blue/0", "blue/1", "red/3"):  # the whole first chunk, and one of the last
        (tmp_path / "bank" / f"{name}.png").write_text("no picture")
    found = measure(bank, query)
    assert (found["bank"], found["top1"]) == (5, 100.0)
    assert (found["skipped"], found["summary"]) == (3, "skipped 3 files: 3 not a picture")
    with pytest.raises(UserError, match="k = 6 neighbours of a bank of 5"):
        measure(bank, query, k=6)
    for path in (tmp_path / "query" / "red").iterdir():
        path.write_text("no picture")
    with pytest.raises(UserError, match=r"--query .*query has no readable picture, .*: red/0\.png is not a picture"):
        measure(bank, query)


def test_an_impossible_k_is_said_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "class_tokens", lambda *_: pytest.fail("it has begun to embed"))
    bank = make_set(tmp_path / "bank", "blue red")
    for k in (0, 5):
        with pytest.raises(UserError, match=f"k = {k} neighbours of a bank of 4"):
            measure(bank, bank, k=k)
