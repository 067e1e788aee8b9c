"""A frozen backbone for people: pictures in, features out (and for programs: tensors in, features out)."""

from __future__ import annotations

import os
from collections.abc import Sequence
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
from dinokit.images.geometry import Size, to_grid
from dinokit.images.normalize import normalize
from dinokit.images.read import read
from dinokit.inference.precision import Precision, choose_device, choose_dtype
from dinokit.inference.prepared import Prepared, prepare

PASS_TOKENS = 2**15
"""Tokens that go through the network in one pass of `encode`, unless one picture has more."""

Picture = str | os.PathLike[str] | bytes | Image.Image | np.ndarray[Any, Any]


class Backbone:
    """A network, frozen, on one device and in one precision. Features come out in float32.

    `network` is the plain module: train it, move it, compile it like any other. The features are computed by a
    prepared copy of its weights, made at first use; call `refresh` after changing the network's weights.
    """

    def __init__(self, model: LoadedModel, device: str = "auto", precision: Precision = "auto") -> None:
        self.device = choose_device(device)
        self.dtype = choose_dtype(precision, self.device)
        self.info: ModelInfo = model.info
        self.stored: Network = model.network.eval().to(self.device)
        """The network with weights as they are stored, which may be in bf16."""
        self._prepared: Prepared | None = None

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
        """Width D of every feature."""
        return self.spec.width

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return self.spec.depth

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return self.spec.patch_size

    @property
    def num_registers(self) -> int:
        """Number of registers R."""
        return self.spec.registers

    @property
    def prepared(self) -> Prepared:
        """The fast copy that computes the features."""
        if self._prepared is None:
            self._prepared = prepare(self.stored, self.device, self.dtype)
        return self._prepared

    def refresh(self) -> None:
        """Take up changed weights of `network`."""
        self._prepared = None

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> Features:
        """Features of normalised pictures [B, C, H, W] whose sides are multiples of the patch size.

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
        wrong = [layer for layer in layers if not -self.depth <= layer < self.depth]
        if wrong:
            raise UserError(f"there is no block {wrong[0]}", f"blocks are 0 to {self.depth - 1}, or -1 for the last")
        return self.prepared.intermediate(pictures.to(self.device), layers, norm)

    @overload
    def encode(self, pictures: Picture, size: Size | None = None, batch_size: int = 16) -> Features: ...
    @overload
    def encode(
        self, pictures: Sequence[Picture], size: Size | None = None, batch_size: int = 16
    ) -> Features | list[Features]: ...
    def encode(
        self, pictures: Picture | Sequence[Picture], size: Size | None = None, batch_size: int = 16
    ) -> Features | list[Features]:
        """Features of one picture or several: paths, bytes, Pillow pictures, uint8 arrays [H, W, 3].

        size: the short side in pixels, (height, width) or "native"; None: the size the model was trained at. Each
        side is resized to the nearest multiple of the patch size: the aspect may change by half a patch, nothing
        is cropped. Pictures of one grid give one `Features` of B pictures; pictures whose grids differ give a list
        of `Features` of one picture each, in order. Raises `UserError` for pictures that cannot be read or would
        become more than `images.geometry.MAX_PATCHES` patches.
        """
        single = isinstance(pictures, (str, os.PathLike, bytes, Image.Image, np.ndarray))
        sources: list[Any] = [pictures] if single else list(pictures)  # type: ignore[arg-type]
        if not sources:
            raise UserError("there are no pictures to encode", "give at least one")
        views, sizes = [], []
        for source in sources:
            picture = read(source)
            sizes.append((picture.shape[0], picture.shape[1]))
            name = os.fspath(source) if isinstance(source, (str, os.PathLike)) else "the picture"
            views.append(to_grid(picture, self.info.image_size if size is None else size, self.patch_size, name))
        features = self.encode_views(views, sizes, batch_size)
        return Features.join(features) if len({view.shape for view in views}) == 1 else features

    @torch.no_grad()
    def encode_views(
        self, views: Sequence[Tensor], sizes: Sequence[tuple[int, int]], batch_size: int = 16
    ) -> list[Features]:
        """Features of uint8 pictures [3, H, W] already on the patch grid, one by one in order.

        sizes: (height, width) of the source pictures. Views of one shape go through the network together, at most
        `batch_size` and as many as have `PASS_TOKENS`: large pictures need no more memory for being several.
        Raises `UserError` where the network does not read three channels.
        """
        if self.spec.in_channels != 3:
            what = f"{self.info.name} reads pictures of {self.spec.in_channels} channels"
            raise UserError(what, "give tensors to backbone(...); encode() and the command line have three")
        order = sorted(range(len(views)), key=lambda i: tuple(views[i].shape))
        found: list[Features | None] = [None] * len(views)
        start = 0
        while start < len(order):
            shape = views[order[start]].shape
            tokens = 1 + self.num_registers + shape[1] * shape[2] // self.patch_size**2
            several = max(min(batch_size, PASS_TOKENS // tokens), 1)
            chosen = [i for i in order[start : start + several] if views[i].shape == shape]
            batch = torch.stack([views[i] for i in chosen]).to(self.device)
            result = self.prepared(normalize(batch, self.info.statistics, self.dtype))
            rows, cols = result.patches.shape[1:3]
            for n, i in enumerate(chosen):
                one = slice(n, n + 1)
                grid = Grid(rows, cols, (sizes[i],))
                found[i] = Features(result.cls[one], result.registers[one], result.patches[one], grid)
            start += len(chosen)
        return [features for features in found if features is not None]

    def _check(self, pictures: Tensor) -> None:
        patch, channels = self.patch_size, self.spec.in_channels
        if pictures.ndim != 4 or pictures.shape[1] != channels or not pictures.is_floating_point():
            raise UserError(
                f"a tensor of shape {tuple(pictures.shape)} and {pictures.dtype} is no batch of pictures",
                f"give normalised floats [B, {channels}, H, W], or pictures to encode()",
            )
        if not len(pictures):
            raise UserError("the batch holds no picture", "give at least one")
        height, width = pictures.shape[-2:]
        if height % patch or width % patch or not (height and width):
            raise UserError(
                f"pictures of {height} x {width} px do not fit patches of {patch} px",
                "resize to multiples, or use encode(), which does",
            )


def load(source: str | Path, device: str = "auto", precision: Precision = "auto", **overrides: Any) -> Backbone:
    """Load a frozen backbone.

    source: `dinokit_vitt16` (bundled); another catalogue name or a repository OWNER/NAME, from the Hugging Face Hub; a
    folder of dinokit, transformers or timm; a run folder; a `.safetensors` or `.pth` file in any of these layouts or
    Meta's, by path or https address; `random:NAME` for an untrained network. device: auto, cpu, cuda or mps.
    precision: auto, fp32 or bf16 (auto: bf16 where the device computes it natively). overrides: properties of the
    network that a bare file cannot tell, such as `norm_eps`; `in_channels` makes a network for pictures of another
    number of channels. Raises `UserError` for anything that cannot be loaded.
    """
    return Backbone(load_model(source, **overrides), device, precision)
