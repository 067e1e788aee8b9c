"""Objects through a video: their masks in the first frame, carried on by the likeness of frozen features.

Nothing is trained. A frame is looked at once and then forgotten but for its features, of which the last few are held:
videos of any length are followed while they come in. Simeoni et al., "DINOv3" (2025), section 6.1.5; the method and
its settings are in `heads.propagate`, the scores in `heads.video_scores`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from dinokit.data.listing import find_pictures
from dinokit.data.object_masks import (
    VOID,
    Labels,
    MaskSource,
    has_numbers,
    object_colours,
    read_numbers,
    read_objects,
)
from dinokit.data.video import Video, VideoSource, open_video
from dinokit.errors import UserError
from dinokit.heads.propagate import Memory, PropagateSettings, to_cells, to_pixels
from dinokit.heads.video_scores import TrackScore, score_video
from dinokit.images.draw import Pixels, blend
from dinokit.images.geometry import Size
from dinokit.images.read import Picture
from dinokit.inference.backbone import Backbone
from dinokit.inference.layers import Look, check_finite, lay_out_view
from dinokit.tasks.results import save_labels

__all__ = ["TrackedFrame", "Tracker"]

SIZE = 480
"""Short side in pixels at which frames are looked at."""
SETTINGS = PropagateSettings(radius=8, temperature=0.05)
"""Sharper and nearer than published, which suits smaller models and sizes."""


@dataclass(frozen=True)
class TrackedFrame:
    """The objects of one frame."""

    number: int
    """Of the frame, from 0."""
    picture: Picture
    """uint8 [H, W, 3]"""
    labels: Labels
    """The object that each pixel belongs to, uint8 [H, W], numbered as in the first mask; 0 is none."""
    objects: tuple[int, ...]
    """The numbers of all objects that are followed."""
    probabilities: NDArray[np.float32]
    """Of none and of each of `objects`, on the patch grid: [1 + objects, h, w]."""

    def draw(self) -> Pixels:
        """The frame with its objects in colour, each with a rim: uint8 [H, W, 3]."""
        colours = object_colours()[self.labels]
        covered = self.labels > 0
        return blend(self.picture, colours, np.where(_rim(self.labels) & covered, 0.95, np.where(covered, 0.5, 0.0)))

    def save(self, path: str | Path) -> None:
        """Write the labels as an indexed PNG, whose values are the object numbers."""
        save_labels(Path(path), self.labels, object_colours())


class Tracker:
    """Follows objects through videos with a frozen backbone.

    size: the short side in pixels, (height, width) or "native", at which frames are looked at: larger finds finer
    edges and takes longer. settings: who is asked for the label of a cell; None: `SETTINGS`. smooth: edges between
    cells by interpolation. The published protocol is size 960, `PropagateSettings()` and smooth=False.
    """

    def __init__(
        self,
        backbone: Backbone,
        size: Size = SIZE,
        settings: PropagateSettings | None = None,
        smooth: bool = True,
    ) -> None:
        self.backbone = backbone
        self.look = Look((backbone.info.map_layer,), size).of(backbone)
        self.settings = SETTINGS if settings is None else settings
        self.smooth = smooth

    def predict(self, frames: VideoSource, first_mask: MaskSource) -> Iterator[TrackedFrame]:
        """The objects of each frame, one after another as the frames are read, the first frame included.

        frames: a video file, a folder of pictures, or pictures one after another (a list, a generator). first_mask:
        which pixel of the first frame belongs to which object, 0 to none: an indexed or grey PNG, an array [H, W], or
        one mask for each object. Raises `UserError` for what cannot be read, a mask without objects and one of
        another size than the frames.
        """
        video = open_video(frames)
        return Following(self, read_objects(first_mask)).through(video)

    def evaluate(self, frames: VideoSource, masks: str | Path) -> TrackScore:
        """Follow the objects of a video from its first true mask, and compare with the others.

        frames: as for `predict`. masks: a folder of PNGs, named as the frames are (or in their order, where each has
        one). The first frame and the last do not count; where only some frames have masks, all of these but the first
        count. Raises `UserError` where the first frame has no mask, or no other has one.
        """
        video = open_video(frames)
        true = match_masks(video, find_pictures(masks), str(masks))
        counted = frames_that_count(true, video.count)
        if 0 not in true or not counted:
            what = "the first frame" if 0 not in true else "other frames"
            raise UserError(f"{masks} has no mask for {what}", "name the masks as the frames are named")
        read = read_numbers if has_numbers(read_numbers(true[0])) else read_objects
        following = Following(self, read(true[0]))
        found = (frame for frame in following.through(video) if frame.number in counted)
        pairs = ((one.labels, _of_size(read(true[one.number]), one.labels.shape, true[one.number])) for one in found)
        return score_video(pairs, following.objects)


class Following:
    """Objects that are being followed, and what is remembered of the frames so far."""

    def __init__(self, tracker: Tracker, mask: Labels) -> None:
        self.tracker = tracker
        self.mask = np.where(mask == VOID, 0, mask).astype(np.uint8)
        self.objects = tuple(int(number) for number in np.unique(self.mask) if number)
        if not self.objects:
            raise UserError("the mask has no object", "give its pixels the number 1, those of the next 2, and so on")
        self.memory: Memory | None = None

    @property
    def seen(self) -> int:
        """How many frames were followed."""
        return 0 if self.memory is None else self.memory.seen

    def through(self, video: Video) -> Iterator[TrackedFrame]:
        """The objects of each frame that was not seen yet."""
        done = self.seen
        for number, picture in enumerate(video):
            if not number and self.mask.shape != picture.shape[:2]:
                sizes = [f"{shape[1]} x {shape[0]}" for shape in (self.mask.shape, picture.shape)]
                what = f"the mask has {sizes[0]} px, the frames of {video.name} have {sizes[1]}"
                raise UserError(what, "give a mask of the first frame in its full size, upright")
            if number >= done:
                yield self.next(picture)

    def next(self, picture: Picture) -> TrackedFrame:
        """The objects of the frame that comes next; of the first one, as they were given."""
        vectors = self._look(picture)
        if self.memory is None:
            given = torch.from_numpy(self.mask).to(vectors.device)
            probabilities, labels = to_cells(given, (0, *self.objects), *vectors.shape[:2]), self.mask
            self.memory = Memory(probabilities, self.tracker.settings)
        else:
            probabilities = self.memory.ask(vectors)
            height, width = self.mask.shape
            found = to_pixels(probabilities, height, width, self.tracker.smooth)
            labels = np.array((0, *self.objects), dtype=np.uint8)[found.cpu().numpy()]
        self.memory.add(vectors, probabilities)
        cells = probabilities.permute(2, 0, 1).cpu().numpy()
        return TrackedFrame(self.memory.seen - 1, picture, labels, self.objects, cells)

    def _look(self, picture: Picture) -> Tensor:
        """The patch features of a frame, each of length 1: [h, w, D]."""
        backbone, look = self.tracker.backbone, self.tracker.look
        name = f"frame {self.seen}"
        [(features,)] = backbone.encode_layers([lay_out_view(backbone, picture, look, name)], look.layers)
        check_finite([features], name)
        return normalize(features.patches[0], dim=-1)


def frames_that_count(true: Mapping[int, Path], frames: int) -> list[int]:
    """All that have masks but the first, and but the last where every frame has one, as in the official score."""
    return sorted(true)[1:-1] if len(true) == frames else sorted(true)[1:]


def match_masks(video: Video, paths: list[Path], name: str) -> dict[int, Path]:
    """The mask of each frame that has one, by the number of the frame."""
    if not video.names:
        if len(paths) != video.count:
            raise UserError(f"{name} has {len(paths)} masks for {video.count} frames", "give the frames as pictures")
        return dict(enumerate(paths))
    places = {stem: number for number, stem in enumerate(video.names)}
    strangers = [path for path in paths if path.stem not in places]
    if strangers:
        raise UserError(f"{strangers[0]} belongs to no frame", "name the masks as the frames are named")
    return {places[path.stem]: path for path in paths}


def _of_size(mask: Labels, shape: tuple[int, ...], path: Path) -> Labels:
    if mask.shape != shape:
        raise UserError(f"{path} is {mask.shape[1]} x {mask.shape[0]} px", f"its frame is {shape[1]} x {shape[0]}")
    return mask


def _rim(labels: Labels) -> NDArray[np.bool_]:
    """Pixels whose neighbours belong to another object."""
    padded = np.pad(labels, 1, mode="edge")
    sides = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    return np.asarray(np.any([side != labels for side in sides], axis=0))
