"""A prepared, frozen copy of a network's weights that computes the same features faster."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dinokit.backbones.features import Features, Grid
from dinokit.backbones.vit import VisionTransformer


class Prepared:
    def __init__(self, network: VisionTransformer, dtype: torch.dtype) -> None:
        self.network = network
        self.dtype = dtype

    def __call__(self, pictures: Tensor) -> Features:
        with torch.autocast(pictures.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return _finish(self.network(pictures.float()), pictures)

    def intermediate(self, pictures: Tensor, layers: Sequence[int], norm: bool) -> list[Features]:
        with torch.autocast(pictures.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return [_finish(f, pictures) for f in self.network.intermediate(pictures.float(), layers, norm)]


def _finish(features: Features, pictures: Tensor) -> Features:
    rows, cols = features.patches.shape[1:3]
    size = (pictures.shape[2], pictures.shape[3])
    features = features.to(torch.float32)
    return Features(features.cls, features.registers, features.patches, Grid(rows, cols, (size,) * len(pictures)))


def prepare(network: VisionTransformer, device: torch.device, dtype: torch.dtype) -> Prepared:
    return Prepared(network, dtype)
