"""What collections that can be searched by pictures have in common: tables (`retrieve`) and indexes (`index`)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dinokit.data.reopen import reopen
from dinokit.errors import UserError
from dinokit.heads.correspondence import patch_similarity
from dinokit.images.draw import thumbnail
from dinokit.images.read import ReadError, Source, name_of
from dinokit.inference.backbone import Backbone
from dinokit.inference.vector_space import Floats, Origin, Seen, Whitening, unit
from dinokit.tasks.hits import Hits, PictureGroups
from dinokit.tasks.results import check_not_input

__all__: list[str] = []

FIRST = 12
"""Hits unless it is said, or the whole collection where that is smaller."""
DUPLICATE, PLAIN_DUPLICATE = 0.9, 0.99
"""Similarity from which on pictures are near-duplicates unless it is said, of whitened and of plain vectors."""

Entry = dict[str, Any]
"""A row of a collection: path, width, height, and similarity to a query."""
THUMBNAIL = 448
"""Side in pixels that a result keeps of its query."""


class Searchable(ABC):
    """A collection of pictures with a vector each."""

    def __init__(self, place: Path, origin: Origin, whitening: Whitening | None, backbone: Backbone | None) -> None:
        """`place`: the file or folder. Raises `UserError` naming the right model if `backbone` is another."""
        if backbone is not None:
            origin.check(backbone, str(place))
        self.place, self.origin, self.whitening, self.backbone = place, origin, whitening, backbone

    @abstractmethod
    def __len__(self) -> int:
        """The number of pictures."""

    @abstractmethod
    def paths(self) -> Iterator[str]:
        """Where the pictures lie, one after another."""

    def check_out(self, out: Path) -> None:
        """Raise `UserError` where a result would be written over one of the pictures."""
        if out.exists():
            alike = [path for path in self.paths() if path.endswith(out.name)]
            check_not_input(out, [base / path for path in alike for base in (Path(), self.place.parent)])

    def model(self) -> Backbone:
        """The backbone; `UserError` if the collection was opened without."""
        if self.backbone is None:
            what = f"{self.place} was opened without a backbone"
            raise UserError(what, f"open it with dinokit.load({self.origin.model!r}) to search by pictures")
        return self.backbone

    def queries(self, vectors: NDArray[Any], width: int) -> Floats:
        """Vectors [Q, D] as they are compared. `UserError` for another shape and numbers that are not finite."""
        found = np.asarray(vectors, np.float32)
        if found.ndim != 2 or found.shape[1] != width:
            raise UserError(f"queries have the shape {list(found.shape)}", f"give vectors [Q, {width}]")
        if not np.isfinite(found).all():
            raise UserError("a query is not finite", "check the picture and the model")
        found = unit(torch.from_numpy(found))
        return found if self.whitening is None else self.whitening(found)

    def hits(self, picture: Source, k: int | None, rerank: int, find: Callable[[Floats, int], list[Entry]]) -> Hits:
        """The first k of what `find` gives for the picture's vector [1, D], the first `rerank` put in order again."""
        if rerank < 0:
            raise UserError(f"--rerank is {rerank}", "give the number of hits to compare patch by patch")
        if not len(self):
            raise UserError(f"{self.place} is empty", "add pictures")
        wanted, rerank = min(FIRST, len(self)) if k is None else k, min(rerank, len(self))
        if not 1 <= wanted <= len(self):
            raise UserError(f"k is {k}, and {self.place} has {len(self)} pictures", f"give 1 to {len(self)}")
        seen = self.origin.look(self.model(), picture)
        found = find(seen.vector[None], max(wanted, rerank))
        ordered = self._rerank(found[:rerank], seen.patches) + found[rerank:]
        return self._collect(name_of(picture), seen, ordered[:wanted])

    def _rerank(self, found: Sequence[Entry], patches: Tensor) -> list[Entry]:
        """The entries with their patch similarity, by its sum with the other; files that are gone have none."""
        compared = []
        for entry in found:
            try:
                other = self.origin.look(self.model(), reopen(entry["path"], self.place.parent)).patches
                compared.append(entry | {"patches": patch_similarity(patches, other)})
            except ReadError:
                compared.append(entry)
        return sorted(compared, key=lambda entry: -entry["similarity"] - entry.get("patches", 0.0))

    def _collect(self, name: str, seen: Seen, found: Sequence[Entry]) -> Hits:
        return Hits(
            name,
            thumbnail(seen.picture, THUMBNAIL),
            tuple(str(entry["path"]) for entry in found),
            np.array([entry["similarity"] for entry in found], np.float32),
            np.array([[entry["width"], entry["height"]] for entry in found], np.int32).reshape(-1, 2),
            np.array([entry.get("patches", math.nan) for entry in found], np.float32),
            self.place.parent,
        )

    def threshold(self, given: float | None) -> float:
        """The similarity from which on pictures are near-duplicates."""
        return (PLAIN_DUPLICATE if self.whitening is None else DUPLICATE) if given is None else given

    def grouped(self, groups: Sequence[Sequence[Entry]], threshold: float) -> PictureGroups:
        """Groups of entries as paths, each once, the largest picture of each first."""
        ordered = [sorted(group, key=lambda entry: -int(entry["width"]) * int(entry["height"])) for group in groups]
        paths = [tuple(dict.fromkeys(str(entry["path"]) for entry in group)) for group in ordered]
        return PictureGroups(tuple(group for group in paths if len(group) > 1), threshold, self.place.parent)
