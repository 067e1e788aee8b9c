"""Depth: metres for every pixel, from a head on frozen patch features (DINOv3, section 6.2).

A linear head learns from pixels drawn at random (`heads.pixels`), a DPT head from pieces of pictures
(`heads.map_crops`), both from features that are computed once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from dinokit.backbones.convnext import ConvNeXtSpec
from dinokit.backbones.features import Features
from dinokit.checkpoints.save import write_atomically
from dinokit.data.depths import DepthMap, Depths, write_depth
from dinokit.data.pairs import DEPTHS, hold_out, open_pairs
from dinokit.data.track import Track, silent
from dinokit.errors import UserError
from dinokit.heads.augment import Augmentation, look_at_chosen
from dinokit.heads.depth_bins import BinnedDepth, DepthBins, Range
from dinokit.heads.depth_losses import log_gradient_loss, scale_invariant_loss
from dinokit.heads.depth_plan import (
    DepthPlan,
    Kind,
    default_layers,
    plan_of_published,
    published_layers,
    read_published,
)
from dinokit.heads.depth_scores import DepthScore, score_depth
from dinokit.heads.fit import Candidate, Fit, FitSettings, Fitted, Material
from dinokit.heads.map_crops import CropBatch, draw_crops
from dinokit.heads.pixels import LabelledMap, PixelBatch, draw_pixels, outputs_at_pixels, outputs_for_picture
from dinokit.heads.saved import backbone_of, fill_head, interpreting, load_head, save_head
from dinokit.images.depth_picture import draw_depth
from dinokit.images.geometry import Size
from dinokit.images.read import Picture
from dinokit.inference.backbone import Backbone, load
from dinokit.inference.cache import FeatureCache
from dinokit.inference.layers import Look, PictureFeatures, layer_widths
from dinokit.inference.stored_features import StoredFeatures
from dinokit.tasks.task import PictureTask

__all__ = ["DepthEstimator"]

SAMPLED = 1024
"""Pixels with known depth that a linear head sees of each picture at each step."""
CROP = 12
"""Side in cells of the piece that a DPT head sees of each picture at each step."""
FINENESS = 16
"""Points along a cell's side at which a DPT head is told the depth."""
PUBLISHED_SIZE = 768
"""Short side at which published heads were evaluated."""
WITHOUT_CROPS = Augmentation(area=(1.0, 1.0))
GRADIENTS = 0.5
"""Weight of the loss of gradients beside the scale-invariant one."""


@dataclass(frozen=True)
class Depth:
    """The depth of every pixel of a picture."""

    depth: NDArray[np.float32]
    """[H, W], metres along the viewing direction."""
    picture: Picture

    def draw(self) -> Picture:
        """The picture and its depth beside each other, near is bright, with a scale in metres."""
        return draw_depth(self.depth, self.picture)

    def metres(self) -> dict[str, float]:
        """The least, the median and the greatest depth."""
        values = {"least": self.depth.min(), "median": np.median(self.depth), "greatest": self.depth.max()}
        return {name: round(float(value), 3) for name, value in values.items()}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the depth: .png (16-bit millimetres), .npy, .pfm or .exr (float32 metres), by the name's ending."""
        place = Path(path)
        write_atomically(place, write_depth(self.depth, place.suffix.lower()))


class DepthEstimator(PictureTask[Depth]):
    """Gives every pixel its depth in metres. `fit` it on pictures with depth, `load` one, or take a published head.

    size: the short side at which pictures are looked at. head: "linear", or "dpt", which is finer and slower. layers:
    blocks whose features the head reads; a DPT head reads four. range: the least and greatest depth in metres.
    """

    def __init__(
        self,
        backbone: Backbone,
        size: Size | None = None,
        layers: Sequence[int] | None = None,
        head: Kind = "linear",
        range: Range = (0.001, 10.0),
    ) -> None:
        if head not in ("linear", "dpt"):
            raise UserError(f"head is {head!r}", "give linear or dpt")
        if head == "dpt" and isinstance(backbone.spec, ConvNeXtSpec):
            raise UserError("a DPT head reads layers of one grid, which a ConvNeXt has not", "take the linear head")
        super().__init__(backbone, Look(tuple(layers or default_layers(head, backbone.depth)), size))
        self.plan = DepthPlan(head, DepthBins(range=(float(range[0]), float(range[1]))))
        self.head: BinnedDepth | None = None
        self.plan.build(layer_widths(backbone, self.look.layers))

    def fit(
        self,
        data: str | os.PathLike[str],
        validation: str | os.PathLike[str] | None = None,
        *,
        settings: FitSettings | None = None,
        augmentation: Augmentation | None = None,
        cache: FeatureCache | None = None,
        track: Track = silent,
        keep: Path | None = None,
    ) -> Fitted:
        """Train the head on pictures with depth maps (`data.pairs`, `data.depths`).

        validation: others, by whose root mean squared error the best head is chosen; without it, a tenth of `data`
        is held out. augmentation: how pictures are changed each time they are learnt from (`WITHOUT_CROPS`: what is cut
        out looks nearer than it is); each step then needs a pass of the backbone. keep: a file for unfinished work.
        Raises `UserError` naming the file for maps that do not fit.
        """
        settings, cache = settings or FitSettings(), cache or FeatureCache()
        pairs = open_pairs(data, DEPTHS)
        others = None if validation is None else open_pairs(validation, DEPTHS)
        sets = [pairs.part(part) for part in hold_out(pairs, settings.seed)] if others is None else [pairs, others]
        train, checked = (Depths(part, self.plan.bins.range, track) for part in sets)
        stores = [StoredFeatures(self.backbone, part.pairs, self.look, cache) for part in (train, checked)]
        for store in stores[1:] if augmentation else stores:
            store.prepare(track)
        batch, loss = (_crops, crop_loss) if self.plan.kind == "dpt" else (_pixels, pixel_loss)
        material: Material[Any] = Material(
            examples=len(train),
            batch=lambda chosen, generator: batch(
                *look_at_chosen(stores[0], train, chosen, augmentation, generator, 0), generator
            ),
            loss=loss,
            score=lambda head: -score_head(head, stores[1], checked).rmse,
        )
        candidates = {str(self.plan.kind): Candidate(self._build_head(settings.seed), settings.lr)}
        sources = f"{data} {validation} {train.digest} {checked.digest}"
        asked = f"{self.backbone.fingerprint} {sources} {self.look} {self.plan} {augmentation}"
        fitted = Fit(candidates, material, settings, keep, asked).run(track)
        assert isinstance(fitted.head, BinnedDepth)
        self.head = fitted.head
        return fitted

    def read(self, seen: PictureFeatures) -> Depth:
        """The depth of every pixel."""
        height, width = seen.picture.shape[:2]
        depth = outputs_for_picture(self._trained(), seen.layers, height, width).whole()[0]
        return Depth(depth.clamp(*self.plan.bins.range).numpy(), seen.picture)

    def evaluate(
        self,
        data: str | os.PathLike[str],
        *,
        align: bool = False,
        cache: FeatureCache | None = None,
        track: Track = silent,
    ) -> DepthScore:
        """Errors on pictures with depth maps: of each picture over its known pixels, then their mean.

        align: bring each picture's depth to the true one by scale and shift first, which leaves its form alone.
        Raises as `fit`.
        """
        depths = Depths(open_pairs(data, DEPTHS), self.plan.bins.range, track)
        store = StoredFeatures(self.backbone, depths.pairs, self.look, cache or FeatureCache())
        return score_head(self._trained(), store, depths, align, track)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the trained head; `load` reads it."""
        settings = {"layers": self.look.layers, "size": self.look.size, "plan": self.plan.to_settings()}
        save_head(Path(folder), "depth", self.backbone, settings, self._trained().network.state_dict())

    @classmethod
    def load(
        cls, folder: str | os.PathLike[str], backbone: Backbone | None = None, size: Size | None = None
    ) -> DepthEstimator:
        """A head that `save` wrote. backbone: the one it was trained on; None: loaded by its name.

        size: at which pictures are looked at; None: the one it was trained with.
        """
        backbone = load(backbone_of(Path(folder))) if backbone is None else backbone
        settings, state = load_head(Path(folder), "depth", backbone)
        with interpreting(Path(folder)):
            size = settings["size"] if size is None else size
            plan = DepthPlan.of_settings(settings["plan"])
            estimator = cls(backbone, size, settings["layers"], plan.kind, plan.bins.range)
        return estimator._take(plan, state, folder)

    @classmethod
    def from_published(
        cls,
        file: str | os.PathLike[str],
        backbone: Backbone,
        size: Size | None = None,
        layers: Sequence[int] | None = None,
        range: Range | None = None,
    ) -> DepthEstimator:
        """A head that Meta published for `backbone`: DPT (SYNTHMIX) or linear (NYU), told apart by their weights.

        size, layers, range: None for those of the publication, 768 and 0.001 to 100 m (DPT) or 10 m. Raises
        `UserError` for a file that holds no depth head, or one for another width.
        """
        kind, state = read_published(Path(file))
        layers = layers or published_layers(kind, backbone.depth)
        estimator = cls(backbone, PUBLISHED_SIZE if size is None else size, layers, kind)
        widths = layer_widths(backbone, estimator.look.layers)
        return estimator._take(plan_of_published(kind, state, widths, range, file), state, file)

    def _take(self, plan: DepthPlan, state: Mapping[str, Tensor], where: object) -> Self:
        """Become the estimator of these weights, that `where` holds."""
        self.plan = plan
        self.head = self._build_head()
        fill_head(self.head.network, state, where)
        self.head.eval()
        return self

    def _build_head(self, seed: int = 0) -> BinnedDepth:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.plan.build(layer_widths(self.backbone, self.look.layers))

    def _trained(self) -> BinnedDepth:
        if self.head is None:
            raise UserError("this DepthEstimator has not learnt depth", "call fit(), or DepthEstimator.load(folder)")
        return self.head


def _pixels(features: Sequence[tuple[Features, ...]], depths: Sequence[DepthMap], generator: Generator) -> PixelBatch:
    return draw_pixels(features, [LabelledMap(depth, depth > 0) for depth in depths], SAMPLED, generator)


def pixel_loss(head: nn.Module, batch: PixelBatch) -> Tensor:
    """Of a linear head, over drawn pixels."""
    return scale_invariant_loss(outputs_at_pixels(head, batch)[:, 0], batch.targets)


def _crops(features: Sequence[tuple[Features, ...]], depths: Sequence[DepthMap], generator: Generator) -> CropBatch:
    return draw_crops(features, depths, CROP, FINENESS, generator)


def crop_loss(head: nn.Module, batch: CropBatch) -> Tensor:
    """Of a DPT head, over pieces of pictures; 0 where these know no depth."""
    assert isinstance(head, BinnedDepth)
    size = batch.targets.shape[-2:]
    found = F.interpolate(head.learn(batch.maps), size=size, mode="bilinear", align_corners=False)[:, 0]
    known = batch.targets > 0
    if int(known.sum()) < 2:  # a variance needs two
        return found.sum() * 0
    form = log_gradient_loss(found, batch.targets, known)
    return scale_invariant_loss(found[known], batch.targets[known]) + GRADIENTS * form


def score_head(
    head: nn.Module, store: StoredFeatures, depths: Depths, align: bool = False, track: Track = silent
) -> DepthScore:
    """Errors of a head on pictures whose features are stored, or are from now on."""
    scores = []
    for i, true in enumerate(track(depths, len(depths), "estimating depth")):
        found = outputs_for_picture(head, store[i], *true.shape).whole()[0].clamp(*depths.limits)
        scores.append(score_depth(found.numpy(), true, depths.limits, align))
    return DepthScore.mean(scores)
