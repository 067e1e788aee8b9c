"""How good a frozen backbone's class tokens are: weighted kNN between two labelled sets of pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

from dinokit.data.opening import open_pictures
from dinokit.data.pictures import Pictures, subset
from dinokit.data.store import decode_all
from dinokit.errors import UserError
from dinokit.heads.knn import knn_accuracy
from dinokit.images.geometry import fit_to_grid
from dinokit.images.normalize import normalize
from dinokit.inference.backbone import Backbone

T = TypeVar("T")
Track = Callable[[Iterable[T], int, str], Iterable[T]]
_CHUNK = 256


def class_tokens(
    backbone: Backbone, pictures: Pictures, size: int | None = None, batch_size: int = 64
) -> Iterator[tuple[Tensor, Tensor]]:
    """Class tokens [n, D] and labels [n] of whole pictures, squashed to a square of `size` px; in chunks.

    A picture that cannot be read is left out. `size` is rounded to the patch grid.
    """
    side = fit_to_grid(1, 1, backbone.info.image_size if size is None else size, backbone.patch_size)[0]
    for first in range(0, len(pictures), _CHUNK):
        store = decode_all(subset(pictures, range(first, min(first + _CHUNK, len(pictures)))), side)
        batches = [normalize(block, backbone.info.statistics) for block in store.pictures.split(batch_size)]
        yield torch.cat([backbone(batch).cls for batch in batches]).cpu(), store.labels


def measure_knn(
    backbone: Backbone, *, bank: str, query: str, k: int = 20, size: int | None = None, track: Track[Any]
) -> dict[str, Any]:
    """kNN accuracy of the backbone's class token as `{"top1", "top5", "k", "bank", "query", "images_per_second"}`.

    Accuracies in per cent; bank and query are numbers of pictures. Raises `UserError` for sets without labels.
    """
    sets = [_labelled(source, role) for source, role in ((bank, "--bank"), (query, "--query"))]
    total = sum(len(pictures) for pictures in sets)
    started = time.perf_counter()
    found = []
    for pictures, role in zip(sets, ("bank", "query"), strict=True):
        chunks = track(class_tokens(backbone, pictures, size), -(-len(pictures) // _CHUNK), role)
        tokens, labels = zip(*chunks, strict=True)
        found.append((torch.cat(tokens), torch.cat(labels)))
    rate = total / (time.perf_counter() - started)
    accuracy = knn_accuracy(found[0], found[1], k=k)
    return {
        "top1": round(accuracy.top1, 2),
        "top5": round(accuracy.top5, 2),
        "k": k,
        "bank": len(found[0][0]),
        "query": len(found[1][0]),
        "images_per_second": round(rate, 1),
    }


def _labelled(source: str, role: str) -> Pictures:
    pictures = open_pictures(source)
    if any(pictures.label(i) is None for i in range(len(pictures))):
        raise UserError(f"{role} {source} has pictures without labels", "give a folder per class, or shards with .cls")
    return pictures
