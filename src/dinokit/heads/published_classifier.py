"""Meta's ImageNet classifier: a linear head on the class token and the mean patch of the last block, in one file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from dinokit.checkpoints.weights import plain_weights, read_tensors
from dinokit.errors import UserError
from dinokit.heads.classifiers import LinearClassifier
from dinokit.heads.pooling import Pooling

POOLING = Pooling(blocks=1, cells=1)


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
