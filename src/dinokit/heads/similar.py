"""What is most alike among vectors of length 1, exactly: nearest neighbours and groups of near-duplicates.

Products of blocks, so that only a piece of the similarity matrix exists at a time; the vectors may be a file that is
mapped into memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from dinokit.errors import UserError

_SCORES = 1 << 24
"""Similarities that exist at a time."""
_ROWS = 1 << 15
"""Vectors that several queries look at together."""
_TILE = 4096
_PAIRS = 1 << 22
"""Pairs that are kept before they are merged into groups."""

Pairs = NDArray[np.int64]
"""[P, 2]"""


def nearest(bank: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k most similar rows of `bank` [N, D] for each of `queries` [Q, D]: similarities [Q, k] and rows [Q, k].

    Best first. Vectors have length 1, so that products are cosines. Raises `UserError` if k is not between 1 and N.
    """
    if not 1 <= k <= len(bank):
        raise UserError(f"k is {k} for {len(bank)} pictures", f"give 1 to {len(bank)}")
    found = [_nearest(bank, part, k) for part in queries.split(max(_SCORES // _ROWS, 1))]
    return torch.cat([part[0] for part in found]), torch.cat([part[1] for part in found])


def _nearest(bank: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    threads = torch.get_num_threads()
    rows_each = -(-len(bank) // threads) if len(queries) == 1 else _ROWS

    def look(start: int) -> tuple[Tensor, Tensor]:
        block = bank[start : start + rows_each]
        top = _cosines(block, queries).topk(min(k, len(block)))
        return top.values, top.indices + start

    starts = range(0, len(bank), rows_each)
    if len(queries) == 1 and threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            found = list(pool.map(look, starts))
    else:
        found = [look(start) for start in starts]
    best, rows = (torch.cat(parts, 1) for parts in zip(*found, strict=True))  # [Q, k for each block]
    top = best.topk(k)
    return top.values, rows.gather(1, top.indices)


def _cosines(block: Tensor, queries: Tensor) -> Tensor:
    """[n, D] and [Q, D] -> [Q, n]. For one query memory is the limit: NumPy's loop reads it twice as fast as a product
    through MKL does on AMD, and as fast elsewhere.
    """
    if len(queries) == 1 and block.device.type == "cpu":
        return torch.from_numpy(np.vecdot(block.numpy(), queries[0].numpy()))[None]
    return queries @ block.T


def groups(bank: Tensor, threshold: float) -> list[NDArray[np.int64]]:
    """Rows of `bank` [N, D] that are linked by similarities of at least `threshold`, two in a group or more.

    In the order of their first rows. A link suffices: the ends of a chain may be less similar. Costs N² products.
    """
    if not 0 < threshold <= 1:
        raise UserError(f"the threshold is {threshold}", "give a cosine above 0, at most 1, such as 0.9")
    pairs: list[Pairs] = []
    for found in _pairs(bank, threshold):
        pairs.append(found)
        if sum(map(len, pairs)) > _PAIRS:
            pairs = [_chains(np.concatenate(pairs), len(bank))]
    linked = np.concatenate(pairs) if pairs else np.empty((0, 2), np.int64)
    members = np.unique(linked)
    order = _labels(linked, len(bank))[members]
    together = members[np.argsort(order, kind="stable")]
    parts = np.split(together, np.flatnonzero(np.diff(np.sort(order))) + 1) if len(members) else []
    return sorted(parts, key=lambda part: int(part[0]))


def _pairs(bank: Tensor, threshold: float) -> Iterator[Pairs]:
    """All (earlier row, later row) that are so similar, a tile of the matrix at a time."""
    bar = threshold - 1e-6  # equal vectors have a cosine of 1 to rounding
    for top in range(0, len(bank), _TILE):
        block = bank[top : top + _TILE]
        for left in range(top, len(bank), _TILE):
            scores = block @ bank[left : left + _TILE].T
            found = (scores >= bar).nonzero() + torch.tensor([top, left])
            yield found[found[:, 0] < found[:, 1]].numpy()


def _labels(pairs: Pairs, count: int) -> NDArray[np.int64]:
    graph = coo_matrix((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), (count, count))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def _chains(pairs: Pairs, count: int) -> Pairs:
    """Fewer pairs that link the same rows: each with the next of its group."""
    members = np.unique(pairs)
    order = _labels(pairs, count)[members]
    sorting = np.argsort(order, kind="stable")
    members, order = members[sorting], order[sorting]
    same = order[1:] == order[:-1]
    return np.stack([members[:-1][same], members[1:][same]], axis=1)
