"""Finds pictures by pictures in what `dinokit embed` wrote: exactly, with nothing more installed.

A table of embeddings is a collection that does not change; its vectors are unpacked once (`inference.vectors`) and
compared by one product. One that grows is an index (`tasks.index`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from numpy import int64
from numpy.typing import NDArray

from dinokit.data.track import Track, silent
from dinokit.heads.similar import groups, nearest
from dinokit.images.read import Source
from dinokit.inference.backbone import Backbone
from dinokit.inference.embed import Tokens
from dinokit.inference.vector_space import Floats
from dinokit.inference.vector_table import ABOUT, open_table
from dinokit.inference.vectors import unpack
from dinokit.tasks.hits import Hits, PictureGroups
from dinokit.tasks.searching import Entry, Searchable

__all__ = ["Collection"]

LEAST_TO_WHITEN = 4
"""Pictures for each number of a vector: with fewer, two kinds of pictures become two points."""


class Collection(Searchable):
    """The pictures of a table of embeddings, ready to be searched."""

    def __init__(
        self,
        table: str | Path,
        backbone: Backbone | None = None,
        *,
        tokens: Tokens | None = None,
        whiten: bool = True,
        track: Track = silent,
    ) -> None:
        """Open a table that `dinokit embed` wrote; its vectors are unpacked beside it at the first time.

        backbone: what the table was made with, for searches by picture. tokens: which vectors are compared, "cls",
        "mean" or "cls+mean" (of those that the table has; None: the class token if it can). whiten: whether the
        directions in which the pictures of this table differ most are scaled down, which finds more where there are
        enough pictures to know them: four times as many as a vector has numbers. Raises
        `UserError` for what is no such table, another backbone (naming the right one), and vectors that are not
        finite.
        """
        self.table = open_table(Path(table), tokens)
        super().__init__(Path(table), self.table.origin, None, backbone)
        enough = len(self.table) >= LEAST_TO_WHITEN * self.table.width
        self.vectors = unpack(self.table, whiten and enough, track)
        self.whitening = self.vectors.whitening

    def __len__(self) -> int:
        return len(self.table)

    def paths(self) -> Iterator[str]:
        """See `Searchable.paths`."""
        for batch in self.table.batches(["path"]):
            yield from batch.column("path").to_pylist()

    def search(self, picture: Source, k: int | None = None, rerank: int = 0) -> Hits:
        """The k pictures most like this one; None: 12, or all where there are fewer.

        rerank: how many of the first are compared patch by patch, and put in that order; their files are read.
        Raises `UserError` for a picture that cannot be read and for k above the number of pictures.
        """
        return self.hits(picture, k, rerank, self._find)

    def nearest(self, vectors: NDArray[Any], k: int) -> tuple[Floats, NDArray[int64]]:
        """The k nearest rows of the table for each of `vectors` [Q, D], made as its own: cosines and rows, [Q, k]."""
        queries = torch.from_numpy(self.queries(vectors, self.table.width))
        similarity, rows = nearest(self.vectors.rows, queries, k)
        return similarity.numpy(), rows.numpy()

    def duplicates(self, threshold: float | None = None) -> PictureGroups:
        """Groups of pictures whose similarity is at least `threshold` (None: 0.9; 0.99 for plain vectors).

        Compares each picture with each other.
        """
        threshold = self.threshold(threshold)
        found = groups(self.vectors.rows, threshold)
        return self.grouped([self.table.rows(rows.tolist(), ABOUT) for rows in found], threshold)

    def _find(self, vector: Floats, k: int) -> list[Entry]:
        similarity, rows = self.nearest(vector, k)
        found = self.table.rows(rows[0].tolist(), ABOUT)
        return [entry | {"similarity": float(cosine)} for entry, cosine in zip(found, similarity[0], strict=True)]
