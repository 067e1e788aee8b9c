"""The linear segmentation head as Meta's public code saves it, beside or without the backbone it was trained on."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from dinokit.checkpoints.unwrap import unwrap
from dinokit.checkpoints.weights import read_tensors
from dinokit.errors import UserError

WEIGHT = "conv.weight"
_PREFIX = "segmentation_model.1."


def read_published_segmentation(path: Path) -> dict[str, Tensor]:
    """The weights of the head [K, C, 1, 1] under the names of `LinearDenseHead`. `UserError` where there are none."""
    state = unwrap(read_tensors(path))
    own = {key.removeprefix(_PREFIX): value for key, value in state.items() if key.startswith(_PREFIX)} or state
    if WEIGHT not in own or own[WEIGHT].ndim != 4:
        raise UserError(f"{path} holds no linear segmentation head", f"its weights would be called {_PREFIX}{WEIGHT}")
    return own


def read_layers(state: Mapping[str, Tensor], widths: Sequence[int], where: str | os.PathLike[str]) -> tuple[int, ...]:
    """The last block, or the last four: what the head of this state has inputs for, where blocks have these widths."""
    inputs = state[WEIGHT].shape[1]
    for count in (1, 4):
        if inputs in (sum(widths[-count:]), 2 * sum(widths[-count:])):
            return tuple(range(-min(count, len(widths)), 0))
    what = f"{os.fspath(where)} takes {inputs} numbers a patch, the last block of this backbone gives {widths[-1]}"
    raise UserError(what, "give the backbone that it was trained on, or the blocks that it reads")
