"""What classifies vectors: published numbers, calibration, the sweep, and scores by their definitions."""

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from helpers_golden import load_golden
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.metrics import average_precision_score
from sklearn.preprocessing import StandardScaler

from dinokit.backbones.features import Features
from dinokit.data.track import silent
from dinokit.errors import UserError
from dinokit.heads import regression
from dinokit.heads.classification_scores import average_precisions, calibration_error, score_classification, top_k
from dinokit.heads.classifiers import LinearClassifier, NeighbourClassifier, calibrate
from dinokit.heads.examples import Examples
from dinokit.heads.fit import FitSettings
from dinokit.heads.knn import knn_scores
from dinokit.heads.linear_probe import fit_probe
from dinokit.heads.pooling import Pooling
from dinokit.heads.regression import STRENGTHS, Kind, Logistic, Regression, Ridge, choose_strength

GOLDEN = Path(__file__).parents[1] / "golden"

pytestmark = pytest.mark.usefixtures("one_thread")


def clouds(count: int, seed: int, classes: int = 3, width: int = 10, spread: float = 0.8) -> Examples:
    """Vectors [count * classes, width] around a centre for each class."""
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat(count)
    vectors = centres[labels] + spread * torch.randn(len(labels), width, generator=generator)
    return Examples(vectors, np.eye(classes, dtype=bool)[labels.numpy()], Pooling(4, 1), (width // 5,) * 4)


def test_inputs_are_those_of_the_published_probe() -> None:
    tensors, _ = load_golden("eval_blocks")
    layers = []
    for n in range(4):
        patches = tensors[f"in.probe.patch{n}"].reshape(2, 2, 3, 8)
        layers.append(Features(tensors[f"in.probe.cls{n}"], torch.empty(2, 0, 8), patches))
    for blocks in (1, 4):
        for cells in (0, 1):
            pooling = Pooling(blocks, cells)
            found = pooling.vector([pooling.reduce(layer) for layer in layers])
            torch.testing.assert_close(found, tensors[f"out.probe.n{blocks}_avg{cells}"])


def test_signed_means_keep_what_cancels_out() -> None:
    patches = torch.tensor([[3.0, -1.0], [-3.0, -1.0]]).reshape(1, 1, 2, 2).expand(2, 2, 2, 2)
    features = Features(torch.zeros(2, 2), torch.empty(2, 0, 2), patches)
    plain, signed = (Pooling(1, 1, signed=signed) for signed in (False, True))
    assert plain.vector([plain.reduce(features)])[0].tolist() == [0, 0, 0, -1]
    assert signed.vector([signed.reduce(features)])[0].tolist() == [0, 0, 1.5, 0, 1.5, 1]
    assert (plain.patch_width([2]), signed.patch_width([2])) == (2, 4)


def test_votes_are_those_of_the_published_knn() -> None:
    tensors, facts = load_golden("eval_blocks")
    bank, labels = tensors["in.knn.train_features"], tensors["in.knn.train_labels"]
    queries = tensors["in.knn.test_features"]
    votes = {k: knn_scores(bank, labels, queries, classes=5, k=k) for k in facts["knn"]["ks"]}
    total = votes[60].sum(1, keepdim=True)
    for k, found in votes.items():
        torch.testing.assert_close(found / total, tensors[f"out.knn.k{k}"], rtol=1e-4, atol=1e-6)
    head = NeighbourClassifier(bank, torch.eye(5)[labels], k=60)
    torch.testing.assert_close(head.probabilities(queries, several=False), tensors["out.knn.k60"], rtol=1e-3, atol=1e-3)


def test_accuracies_are_the_published_ones() -> None:
    logits = np.array([[3.0, 1, 2, 0, 0, 0], [0, 2, 1, 3, 0, 0], [0, 0, 0, 1, 2, 3]])
    true = np.array([2, 2, 5])
    assert top_k(logits, true, 1) == pytest.approx(100 / 3)
    assert top_k(logits, true, 2) == pytest.approx(200 / 3)
    golden = json.loads((GOLDEN / "metrics.json").read_text())["classification"]
    scores, targets = np.array(golden["logits"]), np.array(golden["targets"])
    found = score_classification(scores, np.eye(6, dtype=bool)[targets], tuple("abcdef"), several=False)
    assert found.top1 == pytest.approx(100 * golden["MEAN_ACCURACY"]["top-1"])
    assert found.top5 == pytest.approx(100 * golden["MEAN_ACCURACY"]["top-5"])


def test_average_precision_equals_its_definition_with_ties() -> None:
    random = np.random.default_rng(0)
    scores = random.integers(0, 6, (40, 5)) / 5
    targets = random.random((40, 5)) < 0.3
    targets[:, 4] = False
    found = average_precisions(scores, targets)
    expected = [average_precision_score(targets[:, n], scores[:, n]) for n in range(4)]
    np.testing.assert_allclose(found[:4], expected)
    assert np.isnan(found[4])


@pytest.mark.parametrize("factor", [0.2, 5.0])
def test_calibration_undoes_a_factor(factor: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(4000, 4, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    head = LinearClassifier.of(torch.eye(4), torch.zeros(4))
    temperature = calibrate(head, factor * logits, np.eye(4, dtype=bool)[labels.numpy()], several=False)
    assert temperature == pytest.approx(factor, rel=0.1)
    sure = head.probabilities(factor * logits, several=False).numpy()
    assert calibration_error(sure.max(1), sure.argmax(1) == labels.numpy()) < 3


def test_the_smallest_logits_give_sure_probabilities_too() -> None:
    train = clouds(40, 0, spread=0.1)
    head = Logistic(train.vectors, train.targets, several=False).fit(1e-6)
    calibrate(head, head(train.vectors), train.targets, several=False)
    assert head.probabilities(train.vectors, several=False).max(1).values.min() > 0.9


@pytest.mark.parametrize("kind", [Logistic, Ridge])
@pytest.mark.parametrize("classes", [2, 3])
def test_regression_of_standardised_vectors_takes_them_as_they_are(classes: int, kind: type[Regression]) -> None:
    train, test = clouds(40, 0, classes), clouds(40, 1, classes)
    shift = torch.linspace(-50, 50, 10)
    moved = [part.vectors * torch.logspace(-2, 2, 10) + shift for part in (train, test)]
    plain = kind(train.vectors, train.targets, several=False).fit(1.0)(test.vectors)
    shifted = kind(moved[0], train.targets, several=False).fit(1.0)(moved[1])
    assert (plain.argmax(1).numpy() == test.targets.argmax(1)).mean() > 0.9
    torch.testing.assert_close(plain.softmax(1), shifted.softmax(1), rtol=0.02, atol=0.01)


@pytest.mark.parametrize(("count", "width"), [(40, 10), (3, 60)])
@pytest.mark.parametrize("strength", [1e-2, 1.0, 1e3])
def test_ridge_is_that_of_scikit_learn(count: int, width: int, strength: float) -> None:
    train, test = clouds(count, 0, width=width), clouds(20, 1, width=width)
    scaler = StandardScaler().fit(train.vectors.numpy())
    model = RidgeClassifier(alpha=width / strength).fit(
        scaler.transform(train.vectors.numpy()), train.targets.argmax(1)
    )
    expected = model.decision_function(scaler.transform(test.vectors.numpy()))
    found = Ridge(train.vectors, train.targets, several=False).fit(strength)(test.vectors)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("classes", [2, 3])
def test_few_long_vectors_have_the_regression_of_scikit_learn(classes: int) -> None:
    train, test = clouds(8, 0, classes, width=200, spread=2), clouds(20, 1, classes, width=200, spread=2)
    scaler = StandardScaler().fit(train.vectors.numpy())
    model = LogisticRegression(C=0.01, tol=1e-6).fit(scaler.transform(train.vectors.numpy()), train.targets.argmax(1))
    regression = Logistic(train.vectors, train.targets, several=False)
    assert regression.values.shape[1] < 8 * classes  # by principal coordinates
    head = regression.fit(0.01)
    found = head.probabilities(test.vectors, several=False)
    expected = model.predict_proba(scaler.transform(test.vectors.numpy()))
    np.testing.assert_allclose(found, expected, atol=2e-3)


@pytest.mark.parametrize("kind", [Logistic, Ridge])
@pytest.mark.parametrize("width", [3, 100])
def test_pictures_that_are_all_alike_say_nothing(kind: type[Regression], width: int) -> None:
    targets = np.eye(2, dtype=bool)[[0, 0, 1, 1]]
    head = kind(torch.full((4, width), 7.3), targets, several=False).fit(1.0)
    assert head.probabilities(torch.full((1, width), 7.3), several=False)[0].tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("kind", [Logistic, Ridge])
@pytest.mark.parametrize("several", [False, True])
def test_a_class_that_all_have_is_always_said(kind: type[Regression], several: bool) -> None:
    train = clouds(20, 0)
    targets = np.zeros_like(train.targets)
    targets[:, 1] = True
    regression = kind(train.vectors, targets, several)
    for strength in (0.1, 1.0):
        head = regression.fit(strength)
        assert (head.probabilities(train.vectors, several)[:, 1] > 0.99).all()


def test_a_ridge_regression_beyond_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regression, "_MOST", 8)
    train = clouds(40, 0)
    with pytest.raises(UserError, match="120 pictures with 10 numbers each is too large: take logistic"):
        Ridge(train.vectors, train.targets, several=False)


@pytest.mark.parametrize("kind", [Logistic, Ridge])
def test_a_class_without_pictures_is_never_said(kind: type[Regression]) -> None:
    train = clouds(20, 0)
    targets = np.concatenate([train.targets, np.zeros((60, 1), dtype=bool)], axis=1)
    for several in (False, True):
        head = kind(train.vectors, targets, several).fit(1.0)
        calibrate(head, head(train.vectors), targets, several)
        assert (head.probabilities(train.vectors, several)[:, 3] < 0.01).all()


@pytest.mark.parametrize("kind", get_args(Kind))
def test_the_strength_is_chosen_on_what_was_held_out(kind: Kind) -> None:
    noise = clouds(30, 0, spread=6.0, width=60)
    chosen = choose_strength(kind, noise.vectors, noise.targets, False, silent)
    assert chosen.score == max(chosen.scores.values())
    assert len(chosen.scores) < 12  # the weakest are not tried once the score has fallen
    assert chosen.score < 90  # the training vectors themselves are told apart without a mistake


def test_the_sweep_finds_the_informative_input_and_a_rate_that_learns() -> None:
    train, test = clouds(40, 0, width=4, spread=0.3), clouds(40, 1, width=4, spread=0.3)
    parts = []
    for part, seed in ((train, 5), (test, 6)):  # F = 5 units of 4: only the last class token tells the classes apart
        random = torch.randn(len(part.vectors), 12, generator=torch.Generator().manual_seed(seed))
        patches = torch.randn(len(part.vectors), 4, generator=torch.Generator().manual_seed(seed + 10))
        parts.append(Examples(torch.cat([random, part.vectors, patches], 1), part.targets, Pooling(4, 1), (4,) * 4))
    settings = FitSettings(steps=60, batch=32, validate_every=20, weight_decay=0.0)
    probe = fit_probe(parts[0], parts[1], silent, settings, rates=(1e-6, 1e-1))
    assert probe.pooling.blocks == 1
    assert "lr 0.1" in probe.name
    assert probe.score == max(probe.scores.values()) > 85
    assert len(probe.scores) == 8
    found = probe.head(parts[1].vectors[:, parts[1].columns(probe.pooling)]).argmax(1).numpy()
    assert 100 * (found == test.targets.argmax(1)).mean() == pytest.approx(probe.score)


@pytest.mark.parametrize(("blocks", "cells"), [(0, 1), (1, -1), (1, 65)])
def test_impossible_poolings_are_refused(blocks: int, cells: int) -> None:
    with pytest.raises(UserError, match="give a whole number from"):
        Pooling(blocks, cells)


def test_an_earlier_block_is_of_patches_that_are_read() -> None:
    with pytest.raises(UserError, match="layer is of the patches, and none are read"):
        Pooling(1, 0, -5)
    with pytest.raises(UserError, match="signed is of the patches, and none are read"):
        Pooling(1, 0, signed=True)
    with pytest.raises(UserError, match="layer is 8: give a whole number from -64 to -1"):
        Pooling(4, 4, 8)


def test_a_better_strength_is_found_behind_worse_ones() -> None:
    targets = np.eye(2, dtype=bool)[np.zeros(10, dtype=int)]
    right = dict(zip(STRENGTHS, (3, 2, 2, 6, 8, 7, 7, 7, 9), strict=False))

    def held_out(strength: float) -> torch.Tensor:
        return torch.tensor([[1.0, 0.0]] * right[strength] + [[0.0, 1.0]] * (10 - right[strength]))

    chosen = regression._best(held_out, targets, False, silent)
    assert chosen.strength == STRENGTHS[4]
    assert len(chosen.scores) == 7
