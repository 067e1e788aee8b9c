"""Linear heads as Meta's public code saves them: the ImageNet classifier, and a segmentation head.

The classifier reads the class token and the mean patch of the last block; a segmentation head lies beside its backbone,
or alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from dinokit.checkpoints.unwrap import unwrap
from dinokit.checkpoints.weights import plain_weights, read_tensors
from dinokit.errors import UserError
from dinokit.heads.classifiers import LinearClassifier
from dinokit.heads.pooling import Pooling

POOLING = Pooling(blocks=1, cells=1)
"""Of the classifier."""
WEIGHT = "conv.weight"
_PREFIX = "segmentation_model.1."


def check_names(names: Sequence[str], count: int, where: str | os.PathLike[str]) -> tuple[str, ...]:
    """Names for the `count` classes of a published head, their numbers if there are none.

    Raises `UserError` naming `where` for another number of names.
    """
    if names and len(names) != count:
        raise UserError(f"{len(names)} names for the {count} classes of {os.fspath(where)}", "give one for each")
    return tuple(names) or tuple(map(str, range(count)))


def read_published_classifier(path: Path, width: int) -> LinearClassifier:
    """The head in a file with `weight` [K, 2 D] and `bias` [K]; width: D of the backbone.

    Raises `UserError` for other contents, and where the width is another backbone's.
    """
    state = read_tensors(path)
    known = isinstance(state, dict) and set(state) == {"weight", "bias"}
    if not known or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} is no linear classifier", "it has weight and bias, and nothing else")
    weights = plain_weights(state, str(path))
    weight, bias = weights["weight"], weights["bias"]
    if weight.ndim != 2 or bias.shape != weight.shape[:1]:
        what = f"{path} has a weight of shape {list(weight.shape)} and a bias of {list(bias.shape)}"
        raise UserError(what, "a linear classifier has [K, 2 D] and [K]")
    if weight.shape[1] != 2 * width:
        what = f"{path} takes {weight.shape[1]} numbers, this backbone gives {2 * width}"
        raise UserError(what, "give the backbone that it was trained on")
    return LinearClassifier.of(weight, bias)


def read_published_segmentation(path: Path) -> dict[str, Tensor]:
    """The weights of the head [K, C, 1, 1] under the names of `LinearDenseHead`. `UserError` where there are none."""
    state = unwrap(read_tensors(path), path)
    own = {key.removeprefix(_PREFIX): value for key, value in state.items() if key.startswith(_PREFIX)} or state
    if WEIGHT not in own or own[WEIGHT].ndim != 4:
        raise UserError(f"{path} holds no linear segmentation head", f"its weights would be called {_PREFIX}{WEIGHT}")
    return own


def read_layers(state: Mapping[str, Tensor], widths: Sequence[int], where: str | os.PathLike[str]) -> tuple[int, ...]:
    """The last block, where the head of this state has inputs for it and blocks have these widths.

    Raises `UserError` for other heads: which blocks they read (the last four, or four spread) is not in the file.
    """
    inputs = state[WEIGHT].shape[1]
    if inputs in (widths[-1], 2 * widths[-1]):
        return (-1,)
    what = f"{os.fspath(where)} takes {inputs} numbers a patch, the last block of this backbone gives {widths[-1]}"
    raise UserError(what, "give the backbone that it was trained on, or the layers that it reads")
