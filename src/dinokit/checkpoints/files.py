"""The files of a model's folder: its JSON files, and its weights in one file or in shards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from dinokit.checkpoints.unwrap import unwrap
from dinokit.checkpoints.weights import file_sha256, read_tensors
from dinokit.errors import UserError

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
WEIGHTS_NAMES = (WEIGHTS, f"{WEIGHTS}.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""What the weights of a published folder are called, best first; an index names shards."""
_MAX_JSON = 8 << 20  # bytes
_MAX_SHARDS = 1000


def read_json(path: Path) -> Any:
    """The content of a JSON file; a `UserError` that names it where it has none or is larger than any should be."""
    try:
        with open(path, "rb") as file:
            content = file.read(_MAX_JSON + 1)
        if len(content) > _MAX_JSON:
            raise ValueError(f"it is larger than {_MAX_JSON >> 20} MiB")
        return json.loads(content.decode("utf-8"))
    except (ValueError, OSError, RecursionError) as problem:
        raise UserError(f"{path} cannot be read ({problem})", "save or download the model again") from None


def read_json_object(path: Path) -> Mapping[str, Any]:
    """The same, or an empty one where there is no such file. A `UserError` where it holds no object."""
    content = read_json(path) if path.is_file() else {}
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds no JSON object", "save or download the model again")
    return content


def weights_files(folder: Path) -> list[Path]:
    """The files that hold the weights of a published folder. `UserError` where there are none."""
    for name in WEIGHTS_NAMES:
        if (folder / name).is_file():
            return shards(folder / name) if name.endswith(".json") else [folder / name]
    what = f"{folder} is no model: it has no {WEIGHTS}"
    raise UserError(what, "give a model folder, a run folder or a file")


def shards(index: Path) -> list[Path]:
    """The files beside `index` that it names. `UserError` for an index that is none, or names files elsewhere."""
    named = read_json_object(index).get("weight_map")
    names = sorted({str(name) for name in named.values()}) if isinstance(named, Mapping) else []
    if not names or len(names) > _MAX_SHARDS:
        raise UserError(f"{index} names no shards", "save or download the model again")
    for name in names:
        if name != Path(name).name or not (index.parent / name).is_file():
            raise UserError(f"{index} names {name[:80]!r}, which is no file beside it", "download the model again")
    return [index.parent / name for name in names]


def read_state(files: list[Path]) -> dict[str, Tensor]:
    """The weights in all of these files, wrappers taken off. `UserError` that names the file at fault."""
    state: dict[str, Tensor] = {}
    for path in files:
        state |= unwrap(read_tensors(path), path)
    return state


def digest_of(files: list[Path]) -> str:
    """SHA-256 of a file; of several, that of their digests in order."""
    digests = [file_sha256(path) for path in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
