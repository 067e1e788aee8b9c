"""Writes a model as a folder: `model.safetensors` and `config.json`, renamed together from temporary names."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from dinokit.checkpoints.files import CONFIG, WEIGHTS
from dinokit.checkpoints.model import ModelInfo
from dinokit.errors import UserError


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` so that `path` holds either the old or the new bytes, never half."""
    write_together({path: content})


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write several files of one folder, each whole; all are on the disk before the first takes its name."""
    temporaries = {path: _temporary(path) for path in contents}
    path = next(iter(contents))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for path, content in contents.items():
            with open(temporaries[path], "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for path, temporary in temporaries.items():
            os.replace(temporary, path)
    except OSError as problem:
        raise UserError(f"cannot write {path} ({problem.strerror})", "choose another place or name") from None
    finally:
        for temporary in temporaries.values():
            with contextlib.suppress(OSError):  # what went wrong is already being said
                temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    """A hidden name beside `path`, of this process alone, and short however long the name of `path` is."""
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    return path.with_name(f".{digest}.{os.getpid()}.tmp")


def save_tensors(path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> None:
    """Write a safetensors file. `dtype` narrows weights; RoPE periods stay float32."""
    write_atomically(path, pack(tensors, dtype))


def pack(tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> bytes:
    """The content of a safetensors file, as `save_tensors` writes it."""
    return save({key: _narrow(key, value, dtype) for key, value in tensors.items()}, {"format": "pt"})


def _narrow(key: str, value: Tensor, dtype: torch.dtype | None) -> Tensor:
    if dtype is None or not value.is_floating_point() or key.endswith("periods"):
        return value.detach().cpu().contiguous()
    narrow = value.detach().to(dtype).cpu().contiguous()
    if not bool(narrow.isfinite().all()):
        kind = str(dtype).removeprefix("torch.")
        raise UserError(f"{key} holds numbers that are not finite in {kind}", "save in float32, or check the training")
    return narrow


def save_model(
    folder: str | Path,
    state: Mapping[str, Tensor],
    info: ModelInfo,
    dtype: torch.dtype | None = None,
    beside: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> ModelInfo:
    """Write the folder that `load_model` reads, and with it other tensors `beside`, by file name.

    Returns `info` with the hash of the weights.
    """
    folder = Path(folder)
    if folder.is_file():
        raise UserError(f"{folder} is a file", "give a folder to save the model in")
    weights = pack(state, dtype)
    info = replace(info, weights_sha256=hashlib.sha256(weights).hexdigest())
    config = (json.dumps(info.to_config(), indent=1) + "\n").encode()
    others = {folder / name: pack(tensors, dtype) for name, tensors in (beside or {}).items()}
    write_together({folder / WEIGHTS: weights, folder / CONFIG: config, **others})
    return info
