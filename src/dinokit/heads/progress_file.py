"""Unfinished training in one file: tensors and plain numbers, read back without running anything in it."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch


def write_progress(progress: dict[str, Any]) -> bytes:
    """The content of the file."""
    content = io.BytesIO()
    torch.save(progress, content)
    return content.getvalue()


def read_progress(path: Path) -> dict[str, Any] | None:
    """What was kept; None where there is nothing that can be gone on from."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, ValueError, RuntimeError, pickle.UnpicklingError):
        return None
    return found if isinstance(found, dict) else None
