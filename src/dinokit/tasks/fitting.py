"""What jobs that learn have in common: what is held out for validation, and work that shows no progress."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import torch

from dinokit.data.pairs import Pairs
from dinokit.errors import UserError

T = TypeVar("T")


def silent(items: Iterable[T], total: int, label: str, done: int = 0) -> Iterable[T]:
    """A `Track` that shows nothing."""
    return items


def hold_out(pairs: Pairs, seed: int) -> tuple[list[int], list[int]]:
    """Numbers of the pictures, a tenth apart, at least one: (the others, the tenth). `UserError` for fewer than two."""
    if len(pairs) < 2:
        raise UserError(f"{pairs.name} has one picture", "give two at least, or name others for validation")
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed)).tolist()
    tenth = max(len(pairs) // 10, 1)
    return sorted(order[tenth:]), sorted(order[:tenth])
