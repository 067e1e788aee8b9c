"""A trained head as a folder: `config.json` (the job, its settings, the backbone it belongs to) and `head.safetensors`.

A head means something only on the features that it learnt from, so it is bound to the backbone's fingerprint.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from dinokit.checkpoints.load import BUNDLED, is_known
from dinokit.checkpoints.save import pack, write_together
from dinokit.checkpoints.weights import plain_weights, read_tensors
from dinokit.errors import UserError
from dinokit.inference.backbone import Backbone

FORMAT = "dinokit-head-1"
CONFIG, WEIGHTS = "config.json", "head.safetensors"
_LARGEST = 64 << 20
"""Bytes of a config: class names may be many."""


def save_head(
    folder: Path, job: str, backbone: Backbone, settings: Mapping[str, Any], state: Mapping[str, Tensor]
) -> None:
    """Write the folder of a head for `job`. Raises `UserError` where it holds something else, such as a model."""
    if folder.is_file():
        raise UserError(f"{folder} is a file", "give a folder to save the head in")
    _check_no_model(folder)
    config = {
        "format": FORMAT,
        "job": job,
        "backbone": {
            "name": backbone.info.name,
            "source": backbone.info.source,
            "fingerprint": backbone.fingerprint,
            "width": backbone.embed_dim,
        },
        "settings": dict(settings),
    }
    content = (json.dumps(config, indent=1) + "\n").encode()
    write_together({folder / WEIGHTS: pack(state), folder / CONFIG: content})


def _check_no_model(folder: Path) -> None:
    """Raise `UserError` where a head would replace a model, or hide that of a run."""
    other = (folder / CONFIG).exists() and not _is_head(folder)
    if other or (folder / "model" / CONFIG).exists():
        raise UserError(f"{folder} holds something else, such as a model", "give a head another folder")


def check_vacant(folder: Path) -> None:
    """Raise `UserError` where there is a head already, or a model, which a new one would replace."""
    _check_no_model(folder)
    if (folder / CONFIG).exists():
        raise UserError(f"{folder} holds a head already", "name another folder, or remove it first")


def load_head(folder: Path, job: str, backbone: Backbone) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The settings and the state of a head for `job`. `UserError` if it is another's, damaged, or of other weights."""
    config = _read_config(folder)
    if config["job"] != job:
        raise UserError(f"{folder} is a head for {config['job']!r}", f"not for {job!r}: name another folder")
    made = config["backbone"]
    if made["fingerprint"] != backbone.fingerprint:
        name = made["name"] if made["name"] != backbone.info.name else f"{made['name']} with other weights"
        raise UserError(
            f"{folder} was trained on {name}, not on this backbone", f"name it with --model ({_origin(config)})"
        )
    path = folder / WEIGHTS
    if not path.is_file():
        raise UserError(f"{folder} has no {WEIGHTS}", "the folder is incomplete: copy it again")
    state = read_tensors(path)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds no head", "the folder is damaged: copy it again")
    counts = {key: value for key, value in state.items() if not value.is_floating_point()}
    weights = {key: value for key, value in state.items() if value.is_floating_point()}
    return config["settings"], plain_weights(weights, str(path)) | counts


@contextmanager
def interpreting(folder: Path) -> Iterator[None]:
    """Turns what goes wrong with settings that lack something into a `UserError` naming the file."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise UserError(f"{folder / CONFIG} is damaged ({problem})", "copy the folder again") from None


def backbone_of(folder: Path) -> str:
    """What loads the model that the head in `folder` was trained on: the place that it had, else its name.

    Raises `UserError` where nothing lies there any more and the name is nobody else's.
    """
    config = _read_config(folder)
    name, origin = str(config["backbone"]["name"]), _origin(config)
    if (origin == name and is_known(name)) or os.path.exists(origin) or (origin != name and not os.path.isabs(origin)):
        return origin
    if is_known(name) and name != BUNDLED:  # every run of one's own is called like the bundled model
        return name
    raise UserError(f"{folder} was trained on {origin}, which is not found", "name that model with --model")


def fill_head(head: Any, state: Mapping[str, Tensor], where: object) -> None:
    """Load a state into a head. `UserError` naming the first key that does not fit."""
    own = head.state_dict()
    missing, surplus = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    wrong = [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    for keys, what in ((missing, "lacks"), (surplus, "has no place for"), (wrong, "has another shape of")):
        if keys:
            raise UserError(f"{where} {what} {keys[0]}", "it does not belong to this kind of head")
    head.load_state_dict(dict(state))


def _origin(config: Mapping[str, Any]) -> str:
    """What the backbone was loaded by when the head was saved; its name where it was built without a file."""
    return str(config["backbone"].get("source") or config["backbone"]["name"])


def _is_head(folder: Path) -> bool:
    try:
        _read_config(folder)
    except UserError:
        return False
    return True


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError
        config = json.loads(path.read_text(encoding="utf-8"))
        made = config["backbone"]
        known = config["format"] == FORMAT and isinstance(config["settings"], dict) and isinstance(config["job"], str)
        if not (known and all(isinstance(made[name], str) for name in ("name", "fingerprint"))):
            raise ValueError
    except OSError as problem:
        raise UserError(f"{folder} holds no head ({problem.strerror})", "name the folder that save() wrote") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{path} is no head's config", "name the folder that save() wrote") from None
    return dict(config)
