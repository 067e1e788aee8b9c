"""A frozen backbone for people: pictures in, features out (and for programs: tensors in, features out)."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dinokit.backbones.features import Features, Grid
from dinokit.backbones.network import Network, Spec
from dinokit.checkpoints.load import load_model
from dinokit.checkpoints.model import LoadedModel, ModelInfo
from dinokit.errors import UserError
from dinokit.images.geometry import Fit, Size
from dinokit.images.normalize import normalize
from dinokit.images.read import Source
from dinokit.inference.compiled import Compiled
from dinokit.inference.memory import fits
from dinokit.inference.precision import Precision, choose_device, choose_dtype
from dinokit.inference.prepared import Prepared, prepare
from dinokit.inference.tiled import encode_tiles, tile_side
from dinokit.inference.views import View, expand, read_views

PASS_PIXELS = 2**23
"""Pixels that go through the network in one pass of `encode`, unless one picture has more."""
TILE_SIDE = 1024
"""Side in pixels of the tiles of pictures that are too large for one pass."""

Runtime = str
"""`torch` or `compile`."""
RUNTIMES: dict[str, Callable[[Network, torch.device, torch.dtype], Prepared | Compiled]] = {
    "torch": prepare,
    "compile": Compiled,
}
"""What computes the features: the prepared copy, or the network under `torch.compile`."""

One = bytes | Image.Image | np.ndarray[Any, Any]
Several = str | os.PathLike[str] | Tensor | Sequence[Source]
"""What may stand for more than one picture: folders, patterns, batches and lists."""


class TilesWarning(UserWarning):
    """A picture was looked at in tiles, because memory does not suffice for one pass."""


class Backbone:
    """A network, frozen, on one device and in one precision. Features come out in float32.

    `network` is the plain module: train it, move it, compile it like any other. The features are computed by a
    prepared copy of its weights, made at first use; call `refresh` after changing the network's weights.
    """

    def __init__(
        self, model: LoadedModel, device: str = "auto", precision: Precision = "auto", runtime: Runtime = "torch"
    ) -> None:
        if runtime not in RUNTIMES:
            raise UserError(f"runtime {runtime!r} is unknown", f"give {' or '.join(RUNTIMES)}")
        self.device, self.runtime = choose_device(device), runtime
        self.dtype = choose_dtype(precision, self.device)
        self.info: ModelInfo = model.info
        self.stored: Network = model.network.eval().to(self.device)
        """The network with weights as they are stored, which may be in bf16."""
        self._prepared: Prepared | Compiled | None = None
        self._fingerprint = ""

    @property
    def network(self) -> Network:
        """The plain module in float32; weights that are stored narrower are widened at the first use."""
        return self.stored.float()

    @property
    def spec(self) -> Spec:
        """The shape of the network."""
        return self.stored.spec

    @property
    def embed_dim(self) -> int:
        """Width D of the features (of the last stage of a ConvNeXt)."""
        return self.spec.width

    @property
    def depth(self) -> int:
        """Number of layers that `intermediate` gives: blocks of a ViT, stages of a ConvNeXt."""
        return self.spec.depth

    @property
    def patch_size(self) -> int:
        """Side in pixels of the patch that a cell of the features stands for."""
        return self.spec.patch_size

    @property
    def num_registers(self) -> int:
        """Number of registers R; a ConvNeXt has none."""
        return self.spec.registers

    @property
    def prepared(self) -> Prepared | Compiled:
        """The fast copy that computes the features."""
        if self._prepared is None:
            make = RUNTIMES[self.runtime]
            self._prepared = make(self.stored, self.device, self.dtype)
        return self._prepared

    def refresh(self) -> None:
        """Take up changed weights of `network`."""
        self._prepared, self._fingerprint = None, ""

    @property
    def fingerprint(self) -> str:
        """A hash of the weights' values and of all else that decides the features, in whatever format they are stored.

        What was made with this backbone, heads and cached features, is kept under it.
        """
        if not self._fingerprint:
            self._fingerprint = _fingerprint(self.stored, self.info)
        return self._fingerprint

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> Features:
        """Features of normalised pictures [B, C, H, W] whose sides are multiples of the patch size (32 for a ConvNeXt).

        Raises `UserError` for another shape or no picture. The grid maps to the pixels of `pictures`.
        """
        self._check(pictures)
        return self.prepared(pictures.to(self.device))

    @torch.no_grad()
    def intermediate(self, pictures: Tensor, layers: Sequence[int], norm: bool = True) -> list[Features]:
        """Features after the given blocks (from 0; negative from the end), in the order asked for.

        norm: through the network's final norm, as published evaluations do, or as they are. Raises `UserError` for
        a block that there is not, and as calls do.
        """
        self._check(pictures)
        if not isinstance(layers, Sequence) or not all(isinstance(layer, (int, np.integer)) for layer in layers):
            raise UserError(f"layers is {layers!r}", "give a list of their numbers, such as [2, 5, 8, 11]")
        wrong = [layer for layer in layers if not -self.depth <= layer < self.depth]
        if wrong:
            raise UserError(f"there is no block {wrong[0]}", f"blocks are 0 to {self.depth - 1}, or -1 for the last")
        return self.prepared.intermediate(pictures.to(self.device), layers, norm)

    @overload
    def encode(
        self,
        pictures: One,
        size: Size | None = None,
        batch_size: int = 16,
        fit: Fit = "resize",
        tile: int | None = None,
    ) -> Features: ...
    @overload
    def encode(
        self,
        pictures: Several,
        size: Size | None = None,
        batch_size: int = 16,
        fit: Fit = "resize",
        tile: int | None = None,
    ) -> Features | list[Features]: ...
    def encode(
        self,
        pictures: One | Several,
        size: Size | None = None,
        batch_size: int = 16,
        fit: Fit = "resize",
        tile: int | None = None,
    ) -> Features | list[Features]:
        """Features of one picture or several.

        pictures: a path, a folder, a glob pattern, bytes, a Pillow picture, an array [H, W] or [H, W, C], a tensor
        [C, H, W] or [B, C, H, W], or several of them; of uint8, or scaled to it by the rule of `images.pixels`
        (normalised tensors go to the backbone itself). size: the short side in pixels, (height, width) or "native";
        None: the size the model was trained at. fit: "resize" brings each side to the nearest multiple of the patch
        size: the aspect may change by half a patch; "pad" keeps the aspect and fills up at the bottom and right.
        Nothing is cropped. tile: the side in pixels of the overlapping tiles in which a larger view is looked at, their
        features blended; None: in one pass, or where memory does not suffice for that, in tiles of `TILE_SIDE` with a
        `TilesWarning`. Pictures of one grid give one `Features` of B pictures; pictures whose grids differ give a
        list of `Features` of one picture each, in order. Raises `UserError` for pictures that cannot be read, have
        other channels than the network, or would become more than `images.geometry.MAX_PATCHES` patches.
        """
        size = self.info.image_size if size is None else size
        views = read_views(expand(pictures), size, fit, self.spec, self.info.statistics)
        features = self.encode_views(views, batch_size, tile)
        return Features.join(features) if len({view.pixels.shape for view in views}) == 1 else features

    def encode_views(self, views: Sequence[View], batch_size: int = 16, tile: int | None = None) -> list[Features]:
        """Features of pictures that are already on the patch grid, one by one in order. tile: see `encode`."""
        return [features for (features,) in self.encode_layers(views, (-1,), batch_size, tile)]

    @torch.no_grad()
    def encode_layers(
        self, views: Sequence[View], layers: Sequence[int], batch_size: int = 16, tile: int | None = None
    ) -> list[tuple[Features, ...]]:
        """Features of each view at each of the blocks, in the order of both, through the network's final norm.

        Views of one shape go through the network together, at most `batch_size` and as many as have `PASS_PIXELS`:
        large pictures need no more memory for being several. tile: see `encode`. Raises `UserError` for a block that
        there is not.
        """
        if not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
            raise UserError(f"batch_size is {batch_size!r}", "give a whole number of pictures, 1 or more")
        order = sorted(range(len(views)), key=lambda i: tuple(views[i].pixels.shape))
        found: dict[int, tuple[Features, ...]] = {}
        while len(found) < len(order):
            shape = views[order[len(found)]].pixels.shape
            side = self._tile_side(shape[1], shape[2], tile)
            several = 1 if side else max(min(batch_size, PASS_PIXELS // (shape[1] * shape[2])), 1)
            chosen = [i for i in order[len(found) : len(found) + several] if views[i].pixels.shape == shape]
            pixels = torch.stack([views[i].pixels for i in chosen])
            result = self._encode_tiles(pixels[0], side, layers) if side else self._pass(pixels, layers)
            for n, i in enumerate(chosen):
                found[i] = tuple(_one(features, n, views[i]) for features in result)
        return [found[i] for i in range(len(views))]

    def _pass(self, pixels: Tensor, layers: Sequence[int]) -> tuple[Features, ...]:
        """One pass of uint8 [b, C, h, w]."""
        normalised = normalize(pixels.to(self.device), self.info.statistics, self.dtype)
        if tuple(layers) in ((-1,), (self.depth - 1,)):
            return (self.prepared(normalised),)
        return tuple(self.intermediate(normalised, layers))

    def _encode_tiles(self, pixels: Tensor, side: int, layers: Sequence[int]) -> tuple[Features, ...]:
        several = max(PASS_PIXELS // side**2, 1)
        found = encode_tiles(lambda tiles: self._pass(tiles, layers), pixels, side, self.spec.side_multiple, several)
        return tuple(features.to(self.device) for features in found)

    def _tile_side(self, height: int, width: int, tile: int | None) -> int | None:
        """The side of the tiles in which a view is looked at, a multiple of the grid's; None: in one pass."""
        multiple = self.spec.side_multiple
        if tile is not None:
            side = tile_side(tile, multiple)
            return side if max(height, width) > side else None
        if max(height, width) <= TILE_SIDE or fits(self.spec, height * width, self.dtype, self.device):
            return None
        what = f"{height} x {width} px do not fit into memory in one pass: looking at tiles of {TILE_SIDE} px"
        warnings.warn(what, TilesWarning, stacklevel=6)  # of `encode`
        return TILE_SIDE

    def _check(self, pictures: Tensor) -> None:
        multiple, channels = self.spec.side_multiple, self.spec.in_channels
        if not isinstance(pictures, Tensor):
            raise UserError(f"{type(pictures).__name__} is no tensor", "give pictures to encode()")
        if pictures.ndim != 4 or pictures.shape[1] != channels or not pictures.is_floating_point():
            raise UserError(
                f"a tensor of shape {tuple(pictures.shape)} and {pictures.dtype} is no batch of pictures",
                f"give normalised floats [B, {channels}, H, W], or pictures to encode()",
            )
        if not len(pictures):
            raise UserError("the batch holds no picture", "give at least one")
        height, width = pictures.shape[-2:]
        if height % multiple or width % multiple or not (height and width):
            raise UserError(
                f"pictures of {height} x {width} px have sides that are no multiples of {multiple}",
                "resize to multiples, or use encode(), which does",
            )


def _one(batch: Features, n: int, view: View) -> Features:
    part = slice(n, n + 1)
    rows, cols = batch.patches.shape[1:3]
    return Features(
        batch.cls[part], batch.registers[part], batch.patches[part], Grid(rows, cols, (view.size,), (view.span,))
    )


def _fingerprint(network: Network, info: ModelInfo) -> str:
    config = info.to_config()
    digest = hashlib.sha256(json.dumps([config[name] for name in ("network", "mean", "std")]).encode())
    for name, weight in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def load(
    source: str | Path,
    device: str = "auto",
    precision: Precision = "auto",
    runtime: Runtime = "torch",
    **overrides: Any,
) -> Backbone:
    """Load a frozen backbone.

    source: `dinokit_vitt16` (bundled); another catalogue name or a repository OWNER/NAME, from the Hugging Face Hub; a
    folder of dinokit, transformers or timm; a run folder; a `.safetensors` or `.pth` file in any of these layouts or
    Meta's, by path or https address; `random:NAME` for an untrained network. device: auto, cpu, cuda or mps.
    precision: auto, fp32 or bf16 (auto: bf16 where the device computes it natively). runtime: torch, the prepared
    copy, or compile, which compiles the network at its first call of each shape (for GPUs). overrides: properties of
    the network that a bare file cannot tell, such as `norm_eps`; `in_channels` makes a network for pictures of another
    number of channels. Raises `UserError` for anything that cannot be loaded.
    """
    return Backbone(load_model(source, **overrides), device, precision, runtime)
