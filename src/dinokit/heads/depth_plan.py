"""What a depth head looks like: what is written beside its weights, and what can be read off published ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from dinokit.checkpoints.unwrap import unwrap
from dinokit.checkpoints.weights import read_tensors
from dinokit.errors import UserError
from dinokit.heads.dense import LinearDenseHead
from dinokit.heads.depth_bins import BinnedDepth, DepthBins, Range
from dinokit.heads.dpt import LAYERS, DPTHead, DPTShape

Kind = Literal["linear", "dpt"]

_OUTPUTS: dict[Kind, str] = {"dpt": "conv_depth.head.4.weight", "linear": "conv_depth.weight"}
"""The weights that give the outputs of each kind, [count, inputs, 1, 1]."""


@dataclass(frozen=True)
class DepthPlan:
    """The shape of a head and how its outputs become metres."""

    kind: Kind = "linear"
    bins: DepthBins = DepthBins()  # noqa: RUF009  frozen
    shape: DPTShape = DPTShape()  # noqa: RUF009
    """Of a DPT head."""
    batch_norm: bool = True
    """Of a linear head, as is what follows."""
    class_token: bool = False

    def build(self, widths: Sequence[int]) -> BinnedDepth:
        """The head for layers of these widths, with random weights."""
        if self.kind == "dpt":
            if len(widths) != LAYERS:
                raise UserError(f"a DPT head reads {LAYERS} layers, not {len(widths)}", "give four layers")
            return BinnedDepth(DPTHead(widths, self.bins.count, self.shape), self.bins)
        options = {"batch_norm": self.batch_norm, "class_token": self.class_token}
        head = LinearDenseHead(widths, self.bins.count, dropout=0.0, name="conv_depth", **options)
        return BinnedDepth(head, self.bins)

    def to_settings(self) -> dict[str, Any]:
        """Plain values, for a file."""
        return asdict(self)

    @classmethod
    def of_settings(cls, settings: Mapping[str, Any]) -> DepthPlan:
        """The plan that `to_settings` wrote; `KeyError` and the like for anything else."""
        bins, shape = dict(settings["bins"]), dict(settings["shape"])
        low, high = bins.pop("range")
        projected = tuple(shape.pop("projected"))
        parts = {"bins": DepthBins(range=(low, high), **bins), "shape": DPTShape(projected=projected, **shape)}
        return cls(**{**settings, **parts})


def read_published(path: Path) -> tuple[Kind, dict[str, Tensor]]:
    """The kind and the weights of a published depth head. `UserError` for a file that holds none."""
    state = unwrap(read_tensors(path), path)
    for kind, name in _OUTPUTS.items():
        if name in state and state[name].ndim == 4:
            return kind, state
    raise UserError(f"{path} holds no depth head", f"its weights would be called {' or '.join(_OUTPUTS.values())}")


def plan_of_published(
    kind: Kind, state: Mapping[str, Tensor], widths: Sequence[int], limits: Range | None, where: object
) -> DepthPlan:
    """The plan of a published head for layers of these widths. `UserError` naming `where` if a part is missing.

    limits: the least and greatest depth; None: 0.001 to 100 m for DPT, 0.001 to 10 m for a linear head.
    """
    bins = DepthBins(len(state[_OUTPUTS[kind]]), limits or (0.001, 100.0 if kind == "dpt" else 10.0))
    if kind == "linear":
        twice = state[_OUTPUTS[kind]].shape[1] == 2 * sum(widths)
        return DepthPlan(kind, bins, batch_norm="batchnorm_layer.weight" in state, class_token=twice)
    try:
        projected = tuple(len(state[f"reassemble_blocks.projects.{i}.conv.weight"]) for i in range(LAYERS))
        shape = DPTShape(projected, len(state["project.conv.weight"]), len(state["conv_depth.head.2.weight"]))
    except (KeyError, TypeError):
        raise UserError(f"{where} holds a part of a DPT head", "download it again") from None
    return DepthPlan(kind, bins, shape)


def published_layers(kind: Kind, depth: int) -> tuple[int, ...]:
    """The blocks that published heads read, of a network of so many."""
    if kind == "linear":
        return (-1,)
    return (4, 11, 17, 23) if depth == 24 else spread_layers(depth)


def default_layers(kind: Kind, depth: int) -> tuple[int, ...]:
    """The blocks that a head reads unless it is told others: the last four, or for DPT four at equal distances."""
    return tuple(range(max(depth - LAYERS, 0), depth)) if kind == "linear" else spread_layers(depth)


def spread_layers(depth: int) -> tuple[int, ...]:
    """Four blocks at equal distances, the last among them."""
    return tuple((i + 1) * depth // LAYERS - 1 for i in range(LAYERS))
