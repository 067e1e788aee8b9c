"""Weighted nearest neighbours: the vote, its batches, and the measurement on pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dinokit
from dinokit.errors import UserError
from dinokit.heads import knn
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
    monkeypatch.setattr(knn, "_QUERIES_AT_ONCE", 2)
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
