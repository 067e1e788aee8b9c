"""How verbs open the model that a person named, with what its file could not tell."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from dinokit.checkpoints.model import LoadedModel
    from dinokit.inference.backbone import Backbone

BUNDLED = "dinokit_vitt16"
Model = Annotated[str, Parameter(help="Whatever dinokit.load takes: a name, a file, a folder, a run.")]


@Parameter(name="*")
@dataclass(frozen=True)
class Opening:
    """The options of every verb that opens a model."""

    assume: Annotated[list[str] | None, Parameter(consume_multiple=True, negative=())] = None
    """What a bare weights file cannot tell, as KEY=VALUE: norm_eps=1e-6, image_size=256, mean=[0.5,0.5,0.5]."""
    device: str = "auto"
    """auto, cpu, cuda or mps; cuda:1 is the second."""
    precision: str = "auto"
    """auto, fp32 or bf16."""
    runtime: str = "torch"
    """torch, or compile (torch.compile, for GPUs; the first call of each shape takes long)."""

    def model(self, name: str) -> LoadedModel:
        """The network called `name`, on the CPU; what had to be assumed is said on standard error, one line each."""
        from dinokit.checkpoints.assignments import parse_assignment
        from dinokit.checkpoints.load import load_model
        from dinokit.cli.output import warn

        assumed = dict(parse_assignment(text, "--assume", "norm_eps=1e-6") for text in self.assume or ())
        with warnings.catch_warnings():
            warnings.showwarning = lambda text, *_: warn(str(text).replace("dinokit.load(...)", "--assume KEY=VALUE"))
            return load_model(name, **assumed)

    def backbone(self, name: str) -> Backbone:
        """The backbone called `name`, as `model` opens it."""
        from dinokit.inference.backbone import Backbone

        return Backbone(self.model(name), self.device, self.precision, self.runtime)

    def of_head(self, head: Path, model: str | None = None) -> Backbone:
        """The backbone called `model`; None: the one that the head in the folder `head` was trained on.

        Raises `UserError` for a published file, which does not tell it.
        """
        from dinokit.errors import UserError
        from dinokit.heads.saved import backbone_of

        if model is None and head.is_file():
            raise UserError(f"{head} does not say which backbone it belongs to", "name it with --model")
        return self.backbone(backbone_of(head) if model is None else model)


AUTO = Opening()


def published_classes(file: Path | None) -> tuple[str, ...]:
    """The names of a published head's classes; none without a file."""
    from dinokit.data.class_names import read_class_names

    return () if file is None else read_class_names(file)


def refuse_published(head: Path, **options: object) -> None:
    """Raises `UserError` if one of the `options`, which only published heads need, is given for one of our own."""
    from dinokit.errors import UserError

    given = [name for name, value in options.items() if value]
    if given:
        raise UserError(f"--{given[0]} is for published heads", f"{head} knows its own")
