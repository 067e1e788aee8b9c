"""Writes a model in the layout that another program reads, or refuses and says what that layout cannot hold."""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from dinokit.checkpoints.files import WEIGHTS
from dinokit.checkpoints.layouts import meta
from dinokit.checkpoints.layouts.layout import LAYOUTS, Layout
from dinokit.checkpoints.layouts.transformers import PROCESSOR
from dinokit.checkpoints.model import ModelInfo
from dinokit.checkpoints.save import pack, save_model, write_together
from dinokit.errors import UserError

OURS = "dinokit"
NAMES = (OURS, *(layout.NAME for layout in LAYOUTS))


class LossWarning(UserWarning):
    """A layout has no place for something that features do not depend on, and it was left out."""


def export_model(folder: str | Path, state: Mapping[str, Tensor], info: ModelInfo, layout: str = OURS) -> Path:
    """Write `folder` in a layout: "dinokit", "transformers", "timm" or "meta". Returns the file with the weights.

    state: weights under our names. What the layout leaves out is said by a `LossWarning`. Raises `UserError` where it
    cannot hold the network, naming the property, and where nothing can be written.
    """
    if not str(folder):
        raise UserError("no folder is given", "name one to save the model in")
    folder = Path(folder)
    if layout not in NAMES:
        raise UserError(f"there is no layout {layout!r}", f"known are {', '.join(NAMES)}")
    if folder.is_file():
        raise UserError(f"{folder} is a file", "give a folder to save the model in")
    if layout == OURS:
        save_model(folder, state, info)
        return folder / WEIGHTS
    chosen = next(other for other in LAYOUTS if layout == other.NAME)
    _check(chosen, state, info)
    named = {key: _apart(value) for key, value in chosen.to_theirs(state, info.spec).items()}
    content = _pickle(named) if chosen.NAME == meta.NAME else pack(named)
    name = meta.file_name(info.name, hashlib.sha256(content).hexdigest()) if chosen.NAME == meta.NAME else WEIGHTS
    files = chosen.describe(info, state["norm.weight"].dtype)
    write_together({folder / name: content, **{folder / other: _to_json(text) for other, text in files.items()}})
    if files and PROCESSOR not in files:
        (folder / PROCESSOR).unlink(missing_ok=True)  # of a model that lay here before
    return folder / name


def _check(layout: Layout, state: Mapping[str, Tensor], info: ModelInfo) -> None:
    obstacle = layout.obstacle(info.spec, state)
    if obstacle is not None:
        what = f"the layout of {layout.NAME} cannot hold {obstacle}"
        raise UserError(what, f"choose another layout: {OURS} and {meta.NAME} hold it")
    lost = layout.losses(info.spec, state) + (meta.unsaid(info) if layout.NAME == meta.NAME else [])
    if lost:
        warnings.warn(f"the layout of {layout.NAME} leaves out {'; '.join(lost)}", LossWarning, stacklevel=4)


def _apart(value: Tensor) -> Tensor:
    """On the CPU, and a tensor of its own: of a part of another, a pickle would keep the whole."""
    own = value.detach().cpu().contiguous()
    return own if own.untyped_storage().nbytes() == own.nbytes else own.clone()


def _pickle(named: Mapping[str, Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.save(dict(named), buffer)
    return buffer.getvalue()


def _to_json(content: Mapping[str, object]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
