"""The space in which pictures are compared: which model's vectors, of which tokens, and how they are whitened.

Cosines of frozen features are crowded near 1, because a few directions vary much more than the others. Whitening
(centred, then divided by the covariance's square root; Jégou & Chum 2012, "Negative evidences and co-occurrences in
image retrieval") spreads them; the covariance is shrunk towards a multiple of the identity, so that small collections
do not blow up their noise. Any square root of the inverse gives the same cosines: the triangular one is cheapest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from torch import Tensor

from dinokit.errors import UserError
from dinokit.images.read import Picture, Source, name_of, read
from dinokit.inference.backbone import Backbone
from dinokit.inference.embed import Tokens, take_vectors
from dinokit.inference.jobs import network_digest
from dinokit.inference.layers import Look, lay_out_view

SHRINKAGE = 0.3
"""How much of the mean variance is added to each direction, at least; chosen on training pictures."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Origin:
    """What made vectors; a query must be made by the same."""

    model: str
    weights_sha256: str
    network_sha256: str
    size: int
    """Short side in pixels at which pictures are looked at."""
    tokens: Tokens
    """What a vector is made of; "cls+mean" are both, each of length 1, one after the other."""

    @staticmethod
    def read(metadata: Mapping[str, Any], where: str, made_by: str = "dinokit embed") -> Origin:
        """From what a file says of itself; `UserError` naming it where that is not what `made_by` writes."""
        try:
            tokens = str(metadata["tokens"])
            if tokens not in get_args(Tokens):
                raise ValueError(tokens)
            texts = [str(metadata[name]) for name in ("model", "weights_sha256", "network_sha256")]
            return Origin(texts[0], texts[1], texts[2], int(metadata["size"]), tokens)  # type: ignore[arg-type]
        except (KeyError, ValueError):
            what = f"{where} does not say which model made its vectors"
            raise UserError(what, f"make it with {made_by}") from None

    def check(self, backbone: Backbone, where: str) -> None:
        """Raise `UserError` naming the right model if `backbone` is not what made the vectors of `where`."""
        info = backbone.info
        if (info.weights_sha256, network_digest(backbone)) != (self.weights_sha256, self.network_sha256):
            other = "other weights of that name" if info.name == self.model else info.name
            what = f"{where} was made with {self.model} (weights {self.weights_sha256[:12]}), not with {other}"
            raise UserError(what, f"give that model with --model, such as --model {self.model}")

    def look(self, backbone: Backbone, picture: Source) -> Seen:
        """One picture as `dinokit embed` looked at the others. Raises `ReadError`."""
        pixels = read(picture, at_least=2 * self.size, channels=backbone.spec.in_channels)
        view = lay_out_view(backbone, pixels, Look(size=self.size), name_of(picture))
        features = backbone.encode_views([view])
        parts = take_vectors(features, self.tokens)[0]
        return Seen(pixels, join([part[None] for part in parts])[0], features[0].tokens[0].cpu())


@dataclass(frozen=True)
class Seen:
    """One picture, and what the backbone makes of it."""

    picture: Picture
    """uint8 [H, W, 3], perhaps decoded at a reduced size"""
    vector: Floats
    """[D], of length 1, not whitened"""
    patches: Tensor
    """[h*w, D]"""


_LEAST_SPREAD = 1e-10
"""Mean variance of vectors of length 1, below which they are the same but for rounding."""


@dataclass(frozen=True)
class Whitening:
    """Centre and scale: x -> (x - mean) @ map."""

    mean: Floats
    """[D]"""
    map: Floats
    """[D, D]"""

    @staticmethod
    def fit(moments: Moments) -> Whitening:
        """For vectors with these moments."""
        mean, covariance = moments.mean, moments.covariance
        width = len(mean)
        spread = float(np.trace(covariance)) / width
        shrinkage = max(SHRINKAGE, width / max(moments.count, 1))
        if spread < _LEAST_SPREAD:  # one picture, or the same ones: there is nothing to scale
            return Whitening(np.zeros(width, np.float32), np.eye(width, dtype=np.float32))
        root = cholesky(covariance + shrinkage * spread * np.eye(width), lower=True)
        inverse = solve_triangular(root, np.eye(width), lower=True).T
        return Whitening(mean.astype(np.float32), np.ascontiguousarray(inverse, np.float32))

    def __call__(self, vectors: Floats) -> Floats:
        """Vectors [N, D] of length 1 -> [N, D] of length 1."""
        return unit(torch.from_numpy(vectors - self.mean) @ torch.from_numpy(self.map))


class Moments:
    """Mean and covariance of vectors that come in blocks."""

    def __init__(self, width: int) -> None:
        self.count = 0
        self._sum = torch.zeros(width, dtype=torch.float64)
        self._products = torch.zeros(width, width, dtype=torch.float64)

    def add(self, vectors: Floats) -> None:
        """Take vectors [N, D]."""
        block = torch.from_numpy(vectors)
        self.count += len(block)
        self._sum += block.sum(0, dtype=torch.float64)
        self._products += block.T @ block

    @property
    def mean(self) -> NDArray[np.float64]:
        """[D]"""
        return (self._sum / max(self.count, 1)).numpy()

    @property
    def covariance(self) -> NDArray[np.float64]:
        """[D, D]"""
        return self._products.numpy() / max(self.count, 1) - np.outer(self.mean, self.mean)


def join(columns: list[Floats]) -> Floats:
    """Columns of vectors [N, D] side by side, each scaled to length 1, and the whole too."""
    parts = [unit(torch.from_numpy(column)) for column in columns]
    return parts[0] if len(parts) == 1 else np.hstack(parts) / np.float32(len(parts) ** 0.5)


def unit(vectors: Tensor) -> Floats:
    """Vectors [N, D] scaled to length 1; those of length 0 stay."""
    return F.normalize(vectors, dim=-1).numpy()
