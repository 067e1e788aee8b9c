"""Classification: which class a whole picture belongs to, or which classes, from frozen features (DINOv3, section 6.1).

Nearest neighbours that vote, logistic or ridge regression, or the published sweep of linear heads. Pictures are
squashed to a square, as a whole: for whole pictures that measured better than cropping or keeping the aspect.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dinokit.data.labelled import Labelled, open_labelled
from dinokit.data.track import Track, silent
from dinokit.errors import UserError
from dinokit.heads.classification_scores import ClassificationScore, Mistake, score_classification
from dinokit.heads.classifiers import ClassifierHead, LinearClassifier, NeighbourClassifier, check_vectors
from dinokit.heads.examples import Examples
from dinokit.heads.few_shot import FewShot, measure_few_shot
from dinokit.heads.fit import FitSettings
from dinokit.heads.fit_classifier import Method, Trained, fit_linear, fit_neighbours, fit_regression
from dinokit.heads.pooling import Pooling
from dinokit.heads.published_heads import POOLING, check_names, read_published_classifier
from dinokit.heads.regression import check_ridge
from dinokit.heads.saved import backbone_of, fill_head, interpreting, load_head, save_head
from dinokit.images.draw import thumbnail
from dinokit.images.geometry import fit_to_grid
from dinokit.images.read import read
from dinokit.inference.backbone import Backbone, load
from dinokit.inference.cache import FeatureCache, hash_of
from dinokit.inference.layers import Look, PictureFeatures, layer_widths
from dinokit.inference.stored_features import StoredFeatures
from dinokit.tasks.classify_results import Classification
from dinokit.tasks.task import PictureTask

__all__ = ["Classifier"]

SHOWN = 24
"""Mistakes that a score keeps."""
COUNTS = (1, 2, 5, 10)
"""Pictures a class of few-shot measurements."""
THUMBNAIL = 448
"""Longer side of their pictures."""


class Classifier(PictureTask[Classification]):
    """Gives a picture its class, or its classes. `fit` it on labelled pictures, or `load` one.

    size: side in pixels of the square that pictures are squashed to; None: the size that the model was trained at.
    method: "logistic" or "ridge" (regressions, their strength chosen by cross-validation), "linear" (the published
    sweep of learning rates and inputs) or "knn" (20 neighbours vote). features: what of the backbone is read; None: the
    class token for neighbours, else the class tokens of the last four blocks with the mean patch.
    """

    def __init__(
        self,
        backbone: Backbone,
        size: int | None = None,
        method: Method = "logistic",
        features: Pooling | None = None,
    ) -> None:
        if method not in get_args(Method):
            raise UserError(f"method is {method!r}", f"give {', '.join(get_args(Method))}")
        self.method: Method = method
        self.features = features or default_features(backbone, method)
        """What `fit` reads, and chooses among."""
        self.pooling = self.features
        """What the head takes."""
        side = fit_to_grid(1, 1, backbone.info.image_size if size is None else size, backbone.spec.side_multiple)[0]
        super().__init__(backbone, Look(self.pooling.layers, (side, side)))
        self.classes: tuple[str, ...] = ()
        self.several = False
        self.head: ClassifierHead | None = None

    def fit(
        self,
        data: str | os.PathLike[str] | Labelled,
        validation: str | os.PathLike[str] | Labelled | None = None,
        *,
        settings: FitSettings | None = None,
        k: int | None = None,
        cache: FeatureCache | None = None,
        track: Track = silent,
        keep: Path | None = None,
    ) -> Trained:
        """Learn from labelled pictures (`data.labelled`): a folder per class, tar shards with .cls, or a CSV file.

        validation: what choices and the calibration are made on; None: parts of `data` that are held out in turn.
        settings: of the linear sweep. k: neighbours that vote; None: 20, or all where there are fewer. keep: a file
        for an unfinished sweep. Raises `UserError` for fewer than two classes, for a class of the validation that the
        training does not have, and for a class with one picture where some must be held out.
        """
        for name, value, method in (("k", k, "knn"), ("settings", settings, "linear")):
            if value is not None and self.method != method:
                raise UserError(f"{name} belongs to the method {method}", "leave it out, or take that method")
        learnt = _open(data)
        judged = None if validation is None else _open(validation).in_classes(learnt.classes, learnt.several)
        learnt.check_classes(2 if judged is None else 1)
        if self.method == "ridge":
            check_ridge(len(learnt) + (0 if judged is None else len(judged)), self._width(self.features))
        cache = cache or FeatureCache()
        known = self._examples(learnt, cache, track)
        others = None if judged is None else self._examples(judged, cache, track)
        if self.method == "knn":
            trained = fit_neighbours(known, others, k)
        elif self.method == "linear":
            trained = fit_linear(known, others, track, settings, keep, self._identity(learnt, judged))
        else:
            trained = fit_regression(self.method, known, others, track)
        self._take(trained.head, trained.pooling, learnt.classes, learnt.several)
        return trained

    def vectors(
        self, pictures: Labelled, cache: FeatureCache, track: Track = silent, pooling: Pooling | None = None
    ) -> Tensor:
        """The vector of each picture [N, F], from the cache or computed and kept. `UserError` if one is not finite.

        pooling: what it is made of; None: what the head takes.
        """
        pooling = pooling or self.pooling
        kept = f"means {max(pooling.cells, 1)}{' signed' if pooling.signed else ''}"
        look = self._look_for(pooling)
        store = StoredFeatures(self.backbone, pictures.pictures, look, cache, (kept, pooling.reduce))
        store.prepare(track)
        found = torch.cat([pooling.vector(store[i]) for i in range(len(store))]).cpu()
        check_vectors(found, pictures.name)
        return found

    def read(self, seen: PictureFeatures) -> Classification:
        """The probabilities of the classes."""
        vector = self.pooling.vector([self.pooling.reduce(layer) for layer in seen.layers]).cpu()
        [probabilities] = self._trained().probabilities(vector, self.several)
        return Classification(probabilities.numpy(), self.classes, seen.picture, self.several)

    def evaluate(
        self,
        data: str | os.PathLike[str] | Labelled,
        *,
        cache: FeatureCache | None = None,
        track: Track = silent,
    ) -> ClassificationScore:
        """Judge on labelled pictures. Raises `UserError` as `fit`, and for a class that the head did not learn."""
        head = self._trained()
        judged = _open(data).in_classes(self.classes, self.several)
        vectors = self.vectors(judged, cache or FeatureCache(), track)
        probabilities = head.probabilities(vectors, self.several).numpy()
        score = score_classification(probabilities, judged.targets(), self.classes, self.several)
        return replace(score, mistakes=_worst(judged, probabilities, SHOWN))

    def few_shot(
        self,
        data: str | os.PathLike[str] | Labelled,
        test: str | os.PathLike[str] | Labelled,
        counts: Sequence[int] = COUNTS,
        draws: int = 5,
        *,
        cache: FeatureCache | None = None,
        track: Track = silent,
    ) -> list[FewShot]:
        """How good heads become that see only `counts` pictures of each class of `data`, judged on `test`.

        Changes nothing here. Raises `UserError` as `fit`, for counts that a class does not have, and for the method
        "linear", which needs pictures to choose among its heads.
        """
        if self.method == "linear":
            raise UserError("few-shot has no pictures to choose a linear head by", 'take "logistic", "ridge" or "knn"')
        learnt = _open(data)
        learnt.check_classes()
        judged = _open(test).in_classes(learnt.classes, learnt.several)
        cache = cache or FeatureCache()
        examples = [self._examples(part, cache, track) for part in (learnt, judged)]
        return measure_few_shot(examples[0], examples[1], counts, draws, self.method, track)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the trained head; `load` reads it."""
        head = self._trained()
        settings: dict[str, Any] = {
            "method": self.method,
            "classes": self.classes,
            "several": self.several,
            "size": self.look.size[0],  # type: ignore[index]
            "blocks": self.pooling.blocks,
            "cells": self.pooling.cells,
            "layer": self.pooling.layer,
            "signed": self.pooling.signed,
        }
        if isinstance(head, NeighbourClassifier):
            settings |= {"k": head.k, "sharpness": head.sharpness}
        save_head(Path(folder), "classify", self.backbone, settings, head.state_dict())

    @classmethod
    def load(cls, folder: str | os.PathLike[str], backbone: Backbone | None = None) -> Classifier:
        """A head that `save` wrote. backbone: the one it was trained on; None: loaded by its name."""
        folder = Path(folder)
        backbone = load(backbone_of(folder)) if backbone is None else backbone
        settings, state = load_head(folder, "classify", backbone)
        with interpreting(folder):
            pooling = Pooling(
                settings["blocks"], settings["cells"], settings.get("layer", -1), settings.get("signed", False)
            )
            classifier = cls(backbone, settings["size"], settings["method"], pooling)
            head = _empty_head(settings, state, classifier._width(pooling))
            names, several = tuple(map(str, settings["classes"])), bool(settings["several"])
        fill_head(head, state, folder)
        classifier._take(head, pooling, names, several)
        return classifier

    @classmethod
    def from_published(
        cls, file: str | os.PathLike[str], backbone: Backbone, classes: Sequence[str] = ()
    ) -> Classifier:
        """Meta's ImageNet head: a file with `weight` [K, 2 D] and `bias` [K], trained on `backbone`.

        classes: their names; without them, their numbers. Raises `UserError` for other contents or another backbone.
        """
        head = read_published_classifier(Path(file), backbone.embed_dim)
        classifier = cls(backbone, method="linear", features=POOLING)
        classifier._take(head, POOLING, check_names(classes, len(head.bias), file), several=False)
        return classifier

    def _width(self, pooling: Pooling) -> int:
        return pooling.width(layer_widths(self.backbone, self._look_for(pooling).layers))

    def _examples(self, pictures: Labelled, cache: FeatureCache, track: Track) -> Examples:
        vectors = self.vectors(pictures, cache, track, self.features)
        widths = tuple(layer_widths(self.backbone, self._look_for(self.features).layers))
        return Examples(vectors, pictures.targets(), self.features, widths, pictures.several)

    def _identity(self, *sets: Labelled | None) -> str:
        """Of a sweep that is gone on with only on the same labels."""
        labels = hash_of(repr([(part.name, part.classes, part.labels) for part in sets if part is not None]))
        return f"{self.backbone.fingerprint} {self._look_for(self.features)} {self.features} {labels}"

    def _look_for(self, pooling: Pooling) -> Look:
        return Look(pooling.layers, self.look.size).of(self.backbone)

    def _take(self, head: ClassifierHead, pooling: Pooling, classes: tuple[str, ...], several: bool) -> None:
        self.head, self.pooling, self.classes, self.several = head.eval(), pooling, classes, several
        self.look = self._look_for(pooling)

    def _trained(self) -> ClassifierHead:
        if self.head is None:
            raise UserError("this Classifier has not learnt any classes", "call fit(), or Classifier.load(folder)")
        return self.head


def default_features(
    backbone: Backbone,
    method: Method,
    blocks: int | None = None,
    cells: int | None = None,
    layer: int | None = None,
    signed: bool = False,
) -> Pooling:
    """What `method` reads unless it is said: as published, the class token for neighbours, more for linear heads.

    blocks, cells, layer, signed: see `Pooling`, but the layer from 0, or negative from the end. Raises `UserError`
    for one that there is not.
    """
    usual = Pooling(1, 0) if method == "knn" else Pooling(min(4, backbone.depth), 1)
    blocks, cells = usual.blocks if blocks is None else blocks, usual.cells if cells is None else cells
    if blocks > backbone.depth:
        raise UserError(f"blocks is {blocks}", f"the network has {backbone.depth}")
    [block] = Look((-1 if layer is None else layer,)).of(backbone).layers
    return Pooling(blocks, cells, block - backbone.depth, signed)


def _open(data: str | os.PathLike[str] | Labelled) -> Labelled:
    return data if isinstance(data, Labelled) else open_labelled(data)


def _empty_head(settings: Mapping[str, Any], state: Mapping[str, Tensor], expected: int) -> ClassifierHead:
    """The head of a state, for vectors of `expected` numbers. Raises `ValueError` for one that fits no settings."""
    classes = len(settings["classes"])
    key = "bank" if settings["method"] == "knn" else "weight"
    if key not in state or state[key].ndim != 2:
        raise ValueError(f"the weights have no {key}")
    size, width = state[key].shape
    if width != expected:
        raise ValueError(f"the weights are for {width} numbers a picture, the settings for {expected}")
    if settings["method"] == "knn":
        targets = torch.zeros(size, classes)
        several = bool(settings["several"])
        return NeighbourClassifier(state[key], targets, int(settings["k"]), float(settings["sharpness"]), several)
    return LinearClassifier(width, classes).requires_grad_(False)


def _worst(judged: Labelled, probabilities: NDArray[np.float32], count: int) -> tuple[Mistake, ...]:
    """The most confident mistakes: the wrong class with its probability, or with several labels what was missed."""
    targets = judged.targets()
    if judged.several:
        wrong = np.abs(targets - probabilities)
        classes = wrong.argmax(1)
        confidence = wrong.max(1)
        places = np.flatnonzero(confidence > 0.5)
    else:
        classes, confidence = probabilities.argmax(1), probabilities.max(1)
        places = np.flatnonzero(~targets[np.arange(len(targets)), classes])
    found = []
    for i in places[np.argsort(-confidence[places], kind="stable")][:count]:
        name = judged.classes[classes[i]]
        own = ", ".join(judged.classes[n] for n in judged.labels[i]) or "none"
        said = f"no {name}" if targets[i, classes[i]] else name
        picture = read(judged.pictures.read_bytes(i), judged.pictures.place(i), at_least=THUMBNAIL)
        shown = thumbnail(picture, THUMBNAIL)
        found.append(Mistake(judged.pictures.place(i), shown, own, said, float(confidence[i])))
    return tuple(found)
