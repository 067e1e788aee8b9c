"""How good a frozen backbone's class tokens are: weighted kNN between two labelled sets of pictures."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from dinokit.data.listing import SkippedFiles
from dinokit.data.opening import open_pictures
from dinokit.data.pictures import Pictures, subset
from dinokit.data.shards import Shards
from dinokit.data.store import decode_all
from dinokit.data.track import Track
from dinokit.errors import UserError
from dinokit.heads.knn import check_neighbours, knn_accuracy
from dinokit.images.geometry import fit_to_grid
from dinokit.images.normalize import normalize
from dinokit.inference.backbone import Backbone

NEIGHBOURS = 20
"""How many vote unless it is said, as in published figures."""
_CHUNK = 256


def class_tokens(
    backbone: Backbone, pictures: Pictures, skipped: SkippedFiles, size: int | None = None, batch_size: int = 64
) -> Iterator[tuple[Tensor, Tensor]]:
    """Class tokens [n, D] and labels [n] of whole pictures, squashed to a square of `size` px; in chunks.

    A picture that cannot be read is left out and noted in `skipped`. `size` is rounded to the patch grid.
    """
    side = fit_to_grid(1, 1, backbone.info.image_size if size is None else size, backbone.spec.side_multiple)[0]
    for first in range(0, len(pictures), _CHUNK):
        part = subset(pictures, range(first, min(first + _CHUNK, len(pictures))))
        try:
            store = decode_all(part, side, skipped=skipped, channels=backbone.spec.in_channels)
        except UserError:  # not one of them is readable, and all are noted
            yield torch.empty(0, backbone.embed_dim), torch.empty(0, dtype=torch.int64)
            continue
        batches = [normalize(block, backbone.info.statistics) for block in store.pictures.split(batch_size)]
        yield torch.cat([backbone(batch).cls for batch in batches]).cpu(), store.labels


def measure_knn(
    backbone: Backbone, *, bank: str, query: str, k: int | None = None, size: int | None = None, track: Track
) -> dict[str, Any]:
    """kNN accuracy of the backbone's class token: `top1`, `top5`, `k`, `bank`, `query`, `shared`, `skipped`, `summary`
    (a line about what was skipped), `images_per_second`.

    Accuracies in per cent; bank and query are numbers of pictures, `shared` of those that are in both. k: None is
    `NEIGHBOURS`, or the whole bank where that is smaller. Classes are the same if their names are. Raises
    `UserError` for sets without labels, without a readable picture, or with classes that the bank does not have, and
    if the bank has fewer than k pictures.
    """
    skipped = SkippedFiles()
    banked, queried = _open_labelled(bank, "--bank", skipped), _open_labelled(query, "--query", skipped)
    numbers = _numbers_in_bank(banked, queried)
    if k is not None:
        check_neighbours(k, len(banked))
    started = time.perf_counter()

    def embed(pictures: Pictures, role: str) -> tuple[Tensor, Tensor]:
        chunks = track(class_tokens(backbone, pictures, skipped, size), -(-len(pictures) // _CHUNK), role)
        tokens, labels = (torch.cat(parts) for parts in zip(*chunks, strict=True))
        if not len(tokens):
            first = " ".join(skipped.entries[-len(pictures)])
            what = f"--{role} {pictures.name} has no readable picture, for example: {first}"
            raise UserError(what, "name JPEG, PNG or WebP pictures")
        return tokens, labels

    bank_tokens, bank_labels = embed(banked, "bank")
    k = min(NEIGHBOURS, len(bank_tokens)) if k is None else k
    check_neighbours(k, len(bank_tokens))
    query_tokens, query_labels = embed(queried, "query")
    rate = (len(banked) + len(queried)) / (time.perf_counter() - started)
    accuracy = knn_accuracy((bank_tokens, bank_labels), (query_tokens, numbers[query_labels]), k=k)
    return {
        "top1": round(accuracy.top1, 2),
        "top5": round(accuracy.top5, 2),
        "k": k,
        "bank": len(bank_tokens),
        "query": len(query_tokens),
        "shared": len(_places(banked) & _places(queried)),
        "skipped": len(skipped),
        "summary": skipped.summary(),
        "images_per_second": round(rate, 1),
    }


def _open_labelled(source: str, role: str, skipped: SkippedFiles) -> Pictures:
    pictures = open_pictures(source, skipped)
    if any(pictures.label(i) is None for i in range(len(pictures))):
        raise UserError(f"{role} {source} has pictures without labels", "give a folder per class, or shards with .cls")
    return pictures


def _places(pictures: Pictures) -> set[str]:
    return {os.path.abspath(pictures.place(i)) for i in range(len(pictures))}


def _numbers_in_bank(bank: Pictures, query: Pictures) -> Tensor:
    """The bank's number for each class of the query, by name; shards keep their numbers where one has no names."""
    same = torch.arange(len(query.classes))
    unnamed = any(part.classes == tuple(map(str, range(len(part.classes)))) for part in (bank, query))
    if bank.classes == query.classes or (unnamed and isinstance(bank, Shards) and isinstance(query, Shards)):
        return same
    known = {name: number for number, name in enumerate(bank.classes)}
    used = {query.classes[query.label(i) or 0] for i in range(len(query))}
    strange = sorted(used - known.keys())
    if strange:
        more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
        what = f"--query {query.name} has the class {strange[0]!r}{more}, which --bank {bank.name} does not have"
        raise UserError(what, "name the classes alike")
    return torch.tensor([known.get(name, -1) for name in query.classes])
