"""Writes a backbone so that `dinokit.load` reads it back."""

from __future__ import annotations

from pathlib import Path

from dinokit.checkpoints.save import save_model
from dinokit.inference.backbone import Backbone


def save(backbone: Backbone, folder: str | Path) -> None:
    """Write `folder` with `model.safetensors` and `config.json`. Raises `UserError` if it cannot be written."""
    save_model(folder, backbone.network.state_dict(), backbone.info)
