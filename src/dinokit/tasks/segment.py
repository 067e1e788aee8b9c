"""Semantic segmentation: a class for every pixel, from a linear head on frozen patch features (DINOv3, section 6.1).

The head learns from labelled pixels drawn at random (`heads.pixels`), from features that are computed once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from dinokit.backbones.features import Features
from dinokit.data.masks import IGNORE, Mask, Masks, name_classes
from dinokit.data.pairs import hold_out, open_pairs
from dinokit.data.track import Track, silent
from dinokit.errors import UserError
from dinokit.heads.augment import Augmentation, look_at_chosen
from dinokit.heads.dense import LinearDenseHead
from dinokit.heads.fit import Candidate, Fit, FitSettings, Fitted, Material
from dinokit.heads.pixels import LabelledMap, PixelBatch, draw_pixels, outputs_at_pixels, outputs_for_picture
from dinokit.heads.published_heads import WEIGHT, check_names, read_layers, read_published_segmentation
from dinokit.heads.saved import backbone_of, fill_head, interpreting, load_head, save_head
from dinokit.heads.segmentation_scores import ConfusionMatrix, SegmentationScore
from dinokit.images.cells import PixelMap
from dinokit.images.draw import draw_labels, legend, palette
from dinokit.images.geometry import Size
from dinokit.images.read import Picture, Source, name_of, read
from dinokit.inference.backbone import Backbone, load
from dinokit.inference.cache import FeatureCache
from dinokit.inference.layers import Look, PictureFeatures, layer_widths, look_at
from dinokit.inference.stored_features import StoredFeatures
from dinokit.tasks.results import save_labels
from dinokit.tasks.task import PictureTask

__all__ = ["Segmenter"]

LAYERS = (-4, -3, -2, -1)
PUBLISHED_SIZE = 512
"""Short side, and side of the sliding window, at which heads of Meta's code are evaluated."""
SAMPLED = 1024
"""Labelled pixels that are drawn of each picture at each step."""


@dataclass(frozen=True)
class Segmentation:
    """The class of every pixel of a picture."""

    labels: NDArray[np.uint8]
    """[H, W], numbers of `classes`."""
    confidence: NDArray[np.float32]
    """[H, W], the probability of that class."""
    classes: tuple[str, ...]
    picture: Picture

    def draw(self) -> Picture:
        """The classes in colours over the picture, with a legend of those that occur."""
        shown = draw_labels(self.labels, len(self.classes), self.picture)
        present = np.unique(self.labels)
        names = legend([self.classes[n] for n in present], palette(len(self.classes))[present], shown.shape[1])
        return np.concatenate([shown, names])

    def shares(self) -> dict[str, float]:
        """The share of the picture that each class takes, 0 to 1, of those that occur."""
        counts = np.bincount(self.labels.ravel(), minlength=len(self.classes)) / self.labels.size
        return {name: round(float(share), 4) for name, share in zip(self.classes, counts, strict=True) if share}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the labels as an indexed PNG, or as an array where the name ends in .npy."""
        save_labels(Path(path), self.labels, palette(len(self.classes)))


class Segmenter(PictureTask[Segmentation]):
    """Gives every pixel a class. `fit` it on pictures with masks, `load` one, or take one that Meta's code trained.

    size: the short side at which pictures are looked at; larger gives finer borders. layers: blocks whose features
    the head reads. tile: the side in pixels of a window that slides over larger pictures; None: in one pass, as long
    as memory suffices.
    """

    def __init__(
        self, backbone: Backbone, size: Size | None = None, layers: Sequence[int] = LAYERS, tile: int | None = None
    ) -> None:
        super().__init__(backbone, Look(tuple(layers), size, tile))
        self.classes: tuple[str, ...] = ()
        self.head: LinearDenseHead | None = None

    def fit(
        self,
        data: str | os.PathLike[str],
        validation: str | os.PathLike[str] | None = None,
        *,
        ignore: int = IGNORE,
        balance: float = 0.0,
        settings: FitSettings | None = None,
        augmentation: Augmentation | None = None,
        cache: FeatureCache | None = None,
        track: Track = silent,
        keep: Path | None = None,
    ) -> Fitted:
        """Train the head on pictures with masks (`data.pairs`); without `validation`, a tenth of them is held out.

        ignore: the mask value that counts for nothing; classes called void or unlabelled do not either. balance: how
        much more rare classes count, from 0 (each pixel alike) to 1 (each class alike). augmentation: how pictures are
        changed each time they are learnt from; each step then needs a pass of the backbone. keep: a file for
        unfinished work. Raises `UserError` naming the file for masks that do not fit.
        """
        settings, cache = settings or FitSettings(), cache or FeatureCache()
        train, checked, classes = _open_sets(data, validation, ignore, settings.seed, track)
        stores = [StoredFeatures(self.backbone, masks.pairs, self.look, cache) for masks in (train, checked)]
        weights = class_weights(train.counts.sum(0)[: len(classes)], balance)
        material = Material(
            examples=len(train),
            batch=lambda chosen, generator: _draw(
                *look_at_chosen(stores[0], train, chosen, augmentation, generator, IGNORE), generator
            ),
            loss=partial(_loss, weights),
            score=lambda head: _score(head, stores[1], checked, classes).miou,
        )
        for store in stores[1:] if augmentation else stores:
            store.prepare(track)
        candidates = {"linear": Candidate(self._build_head(len(classes), settings.seed), settings.lr)}
        asked = (
            self.backbone.fingerprint,
            str(data),
            str(validation),
            train.digest,
            checked.digest,
            balance,
            augmentation,
        )
        fitted = Fit(candidates, material, settings, keep, repr((*asked, self.look, classes))).run(track)
        assert isinstance(fitted.head, LinearDenseHead)
        self.head, self.classes = fitted.head, classes
        return fitted

    def read(self, seen: PictureFeatures) -> Segmentation:
        """The class of every pixel."""
        return self._decide([self._outputs(seen)], seen.picture)

    def predict_with_care(self, picture: Source, scales: Sequence[float] = (1.0,), flip: bool = False) -> Segmentation:
        """The mean of several looks at one picture: at sizes times `scales`, and mirrored too if `flip`.

        Slower and a little better (multi-scale testing, as published results for segmentation use it).
        """
        wrong = [scale for scale in scales if not 0.01 <= scale <= 100]
        if wrong or not scales:
            raise UserError(f"scales are {list(scales)}", "give some from 0.01 to 100, such as 0.75 1 1.25")
        whole, name = read(picture, channels=self.backbone.spec.in_channels), name_of(picture)
        found = []
        for mirrored in (False, True) if flip else (False,):
            view = whole[:, ::-1].copy() if mirrored else whole
            for scale in scales:
                look = replace(self.look, size=_scaled(self.look.size, scale, whole))
                found.append(self._outputs(look_at(self.backbone, view, look, name), mirrored))
        return self._decide(found, whole)

    def evaluate(
        self,
        data: str | os.PathLike[str],
        *,
        ignore: int = IGNORE,
        cache: FeatureCache | None = None,
        track: Track = silent,
    ) -> SegmentationScore:
        """Intersection over union on pictures with masks. Raises as `fit`, and for values that are no class."""
        masks = Masks(open_pairs(data), ignore, track, self.classes).labelled()
        store = StoredFeatures(self.backbone, masks.pairs, self.look, cache or FeatureCache())
        return _score(self._trained(), store, masks, self.classes, track)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the trained head; `load` reads it."""
        settings = {"classes": self.classes, "layers": self.look.layers, "size": self.look.size, "tile": self.look.tile}
        save_head(Path(folder), "segment", self.backbone, settings, self._trained().state_dict())

    @classmethod
    def load(
        cls, folder: str | os.PathLike[str], backbone: Backbone | None = None, tile: int | None = None
    ) -> Segmenter:
        """A head that `save` wrote. backbone, tile: those it was trained with; None: loaded by its name, the same."""
        backbone = load(backbone_of(Path(folder))) if backbone is None else backbone
        settings, state = load_head(Path(folder), "segment", backbone)
        with interpreting(Path(folder)):
            tile = settings.get("tile") if tile is None else tile
            segmenter = cls(backbone, _size(settings["size"]), settings["layers"], tile)
            classes = tuple(map(str, settings["classes"]))
        return segmenter._take(segmenter._build_head(len(classes), 0), state, classes, folder)

    @classmethod
    def from_published(
        cls,
        file: str | os.PathLike[str],
        backbone: Backbone,
        size: Size = PUBLISHED_SIZE,
        layers: Sequence[int] | None = None,
        tile: int | None = PUBLISHED_SIZE,
        classes: Sequence[str] = (),
    ) -> Segmenter:
        """A linear head that Meta's public code trained on `backbone`; size and tile are those of its evaluation.

        layers: the blocks that the head reads; None for the last, as published. classes: their names; without them,
        their numbers. Raises `UserError` for a file that holds no such head, one of another width or of more than 255
        classes, and another number of classes.
        """
        state = read_published_segmentation(Path(file))
        layers = layers or read_layers(state, layer_widths(backbone, range(backbone.depth)), file)
        segmenter, count = cls(backbone, size, layers, tile), len(state[WEIGHT])
        if count > IGNORE:
            raise UserError(f"{file} has {count} classes", f"label maps hold at most {IGNORE}")
        names = check_names(classes, count, file)
        widths = layer_widths(backbone, segmenter.look.layers)
        head = LinearDenseHead(widths, count, class_token=state[WEIGHT].shape[1] == 2 * sum(widths))
        return segmenter._take(head, state, names, file)

    def _take(
        self, head: LinearDenseHead, state: Mapping[str, Tensor], classes: tuple[str, ...], where: object
    ) -> Segmenter:
        """Become the segmenter of these weights, that `where` holds."""
        fill_head(head, state, where)
        self.head, self.classes = head.eval(), classes
        return self

    def _build_head(self, classes: int, seed: int) -> LinearDenseHead:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return LinearDenseHead(layer_widths(self.backbone, self.look.layers), classes)

    def _trained(self) -> LinearDenseHead:
        if self.head is None:
            raise UserError("this Segmenter has not learnt any classes", "call fit(), or Segmenter.load(folder)")
        return self.head

    def _outputs(self, seen: PictureFeatures, mirrored: bool = False) -> PixelMap:
        """The logits of a picture, or of one whose mirror image was looked at."""
        found = outputs_for_picture(self._trained(), seen.layers, *seen.picture.shape[:2])
        return found.mirrored() if mirrored else found

    def _decide(self, looks: Sequence[PixelMap], picture: Picture) -> Segmentation:
        """The most probable class of each pixel by the mean of several looks, a band of rows at a time."""
        labels = np.empty(picture.shape[:2], np.uint8)
        confidence = np.empty(picture.shape[:2], np.float32)
        for bands in zip(*(look.bands() for look in looks), strict=True):
            rows = bands[0][0]
            mean = torch.stack([logits.softmax(dim=0) for _, logits in bands]).mean(0)
            best, found = mean.max(dim=0)
            labels[rows], confidence[rows] = found.numpy(), best.numpy()
        return Segmentation(labels, confidence, self.classes, picture)


def _open_sets(
    data: str | os.PathLike[str], validation: str | os.PathLike[str] | None, ignore: int, seed: int, track: Track
) -> tuple[Masks, Masks, tuple[str, ...]]:
    """What is learnt from, what it is judged on, and the classes of both."""
    masks = Masks(open_pairs(data), ignore, track)
    classes = name_classes(masks)
    masks = masks.labelled()
    if validation is None:
        rest, tenth = hold_out(masks.pairs, seed)
        return masks.part(rest), masks.part(tenth), classes
    return masks, Masks(open_pairs(validation), ignore, track, classes).labelled(), classes


def class_weights(pixels: NDArray[np.integer], balance: float) -> Tensor:
    """The weight of each class in the loss, its share of the `pixels` [K] to the power of -balance; 1 on average.

    Raises `UserError` for a balance that is not from 0 to 1.
    """
    if not 0 <= balance <= 1:
        raise UserError(f"balance is {balance}", "give 0 (each pixel counts alike) to 1 (each class does)")
    shares = torch.from_numpy(pixels / pixels.sum()).float()
    weights = torch.where(shares > 0, shares.clamp_min(1e-12) ** -balance, 0.0)
    return weights / (weights * shares).sum()


def _draw(features: Sequence[tuple[Features, ...]], masks: Sequence[Mask], generator: Generator) -> PixelBatch:
    return draw_pixels(features, [LabelledMap(mask, mask != IGNORE) for mask in masks], SAMPLED, generator)


def _loss(weights: Tensor, head: nn.Module, batch: PixelBatch) -> Tensor:
    return F.cross_entropy(outputs_at_pixels(head, batch), batch.targets.long(), weights)


def _score(
    head: nn.Module, store: StoredFeatures, masks: Masks, classes: tuple[str, ...], track: Track = silent
) -> SegmentationScore:
    matrix = ConfusionMatrix(len(classes))
    for i, mask in enumerate(track(masks, len(masks), "segmenting")):
        matrix.add(mask, outputs_for_picture(head, store[i], *mask.shape).most().numpy(), IGNORE)
    return matrix.score(classes)


def _scaled(size: Size | None, scale: float, picture: Picture) -> Size:
    assert size is not None
    if size == "native":
        return (round(picture.shape[0] * scale), round(picture.shape[1] * scale))
    return round(size * scale) if isinstance(size, int) else tuple(round(side * scale) for side in size)


def _size(stored: Any) -> Size:
    return tuple(stored) if isinstance(stored, list) else stored
