"""Features that were computed once, kept on disk: what a head learns from is read many times.

An entry is a safetensors file named by a hash of everything that decides the features: weights, number format, the
picture's bytes, size and layers. It appears by rename, so it is whole or not there, whichever process is killed. When
the folder outgrows its limit, the entries that were not used for longest go.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from dinokit.backbones.features import Features, Grid
from dinokit.checkpoints.save import write_atomically
from dinokit.errors import UserError

LIMIT = 10 << 30
"""Bytes that the cache may hold unless it is said otherwise."""
FOLDER, ROOM = "DINOKIT_CACHE", "DINOKIT_CACHE_LIMIT"
"""The environment variables that name the folder, and the bytes that it may hold."""
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_STALE_SECONDS = 3600
"""Age of a temporary file that no living process writes."""


def default_folder() -> Path:
    """The folder that `DINOKIT_CACHE` names, or `dinokit` in the user's cache folder."""
    named = os.environ.get(FOLDER)
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dinokit"


def default_limit() -> int:
    """The bytes that `DINOKIT_CACHE_LIMIT` says, such as 50G, or `LIMIT`. Raises `UserError` for what is no size."""
    text = os.environ.get(ROOM, "")
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?) ?([KMGT]?)(?:i?B)?", text, re.IGNORECASE)
    if text and not found:
        raise UserError(f"{ROOM} is {text!r}", "give bytes, or a size such as 50G")
    return int(float(found[1]) * _UNITS[found[2].upper()]) if found else LIMIT


def in_words(count: int) -> str:
    """Bytes in a unit that suits them."""
    return f"{count / 2**30:.2f} GiB" if count >= 1 << 30 else f"{count / 2**20:.2f} MiB"


def hash_of(*parts: str | bytes) -> str:
    """A name for everything in `parts`, in hexadecimal."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


@dataclass(frozen=True)
class CacheInfo:
    """What the cache holds."""

    folder: Path
    entries: int
    bytes: int
    limit: int


class CacheWarning(UserWarning):
    """Features cannot be kept, and are computed anew whenever they are needed."""


class FeatureCache:
    """Features by key, in a folder that several processes and people may use at once.

    limit: bytes; 0 keeps nothing, None is `default_limit`. Where the folder cannot be written, a `CacheWarning` says so
    once, and nothing more is kept.
    """

    def __init__(self, folder: Path | None = None, limit: int | None = None) -> None:
        self.folder = (folder or default_folder()) / "features"
        self.limit = default_limit() if limit is None else limit
        self._room = 0
        """Bytes that may be written before the folder is looked through again."""

    def get(self, key: str) -> tuple[Features, ...] | None:
        """The features of each layer in float16, memory-mapped; None if there are none, or the entry is damaged."""
        path = self._path(key)
        try:
            with safe_open(path, framework="pt") as file:
                grids = json.loads((file.metadata() or {})["grids"])
                found = tuple(_unpack(file, n, grid) for n, grid in enumerate(grids))
        except (OSError, RuntimeError):  # there is none, or not for us, or another process has just removed it
            return None
        except (SafetensorError, KeyError, ValueError, TypeError):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            return None
        with contextlib.suppress(OSError):  # the entry of another person may be read only
            os.utime(path)  # used now
        return found

    def put(self, key: str, layers: Sequence[Features]) -> None:
        """Keep the features of one picture: a batch of one for each layer, with grids; registers are left out."""
        if not self.limit:
            return
        tensors, grids = {}, []
        for n, features in enumerate(layers):
            assert features.grid is not None
            tensors[f"cls.{n}"] = features.cls.to(torch.float16).cpu().contiguous()
            tensors[f"patches.{n}"] = features.patches.to(torch.float16).cpu().contiguous()
            grids.append([features.grid.sizes[0], features.grid.spans[0]])
        if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
            return  # no float16: they are computed anew each time
        content = save(tensors, {"grids": json.dumps(grids)})
        try:
            if len(content) > self._room:
                self._make_room(len(content))
            self._room -= len(content)
            write_atomically(self._path(key), content)
        except UserError as problem:
            self.limit = 0
            hint = f"{FOLDER} names another folder, {ROOM} what it may hold"
            warnings.warn(f"features are not kept any more: {problem.message}; {hint}", CacheWarning, stacklevel=2)

    def check_room(self, some: Sequence[Sequence[Features]], pictures: int) -> None:
        """Warn where features of so many pictures, as large as those of `some` on average, are beyond the limit."""
        numbers = sum(layer.cls.numel() + layer.patches.numel() for layers in some for layer in layers)
        needed = 2 * numbers * pictures // len(some)  # float16
        if 0 < self.limit < needed:
            what = f"features of {pictures:,} pictures take {in_words(needed)}, the cache holds {in_words(self.limit)}"
            wanted = math.ceil(1.25 * needed / 2**20)
            hint = f"they are computed anew at each use unless {ROOM} is larger, such as {wanted}M"
            warnings.warn(f"{what}: {hint}", CacheWarning, stacklevel=2)

    def info(self) -> CacheInfo:
        """How much there is."""
        sizes = [size for _, size, _ in self._entries()]
        return CacheInfo(self.folder, len(sizes), sum(sizes), self.limit)

    def clear(self) -> CacheInfo:
        """Remove all entries; returns what there was."""
        before = self.info()
        for _, _, path in self._entries():
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        return before

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def _entries(self) -> list[tuple[float, int, Path]]:
        """When each entry was used last, its size and its place; the oldest first. Forgotten temporaries go."""
        found = []
        for path in self.folder.glob("*/*"):
            try:
                state = path.stat()
                if path.suffix == ".safetensors":
                    found.append((state.st_mtime, state.st_size, path))
                elif path.suffix == ".tmp" and time.time() - state.st_mtime > _STALE_SECONDS:
                    path.unlink(missing_ok=True)
            except OSError:  # another process was faster
                continue
        return sorted(found)

    def _make_room(self, needed: int) -> None:
        """Remove what was used longest ago until a tenth of the limit is free."""
        if needed > self.limit:
            raise UserError(f"features of {needed:,} bytes do not fit into a cache of {self.limit:,}", f"set {ROOM}")
        entries = self._entries()
        held = sum(size for _, size, _ in entries)
        aim = min(int(0.9 * self.limit), self.limit - needed)
        for _, size, path in entries if held + needed > self.limit else ():
            if held <= aim:
                break
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            held -= size
        self._room = max((self.limit - held) // 4, needed)  # other processes write too


def _unpack(file: Any, number: int, grid: Any) -> Features:
    cls, patches = file.get_tensor(f"cls.{number}"), file.get_tensor(f"patches.{number}")
    size, span = (tuple(pair) for pair in grid)
    rows, cols = patches.shape[1:3]
    return Features(cls, cls.new_empty(1, 0, cls.shape[-1]), patches, Grid(rows, cols, (size,), (span,)))
