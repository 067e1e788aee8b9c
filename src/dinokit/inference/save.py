"""Writes a backbone so that dinokit, or another program, reads it back."""

from __future__ import annotations

from pathlib import Path

from dinokit.checkpoints.export import OURS, export_model
from dinokit.inference.backbone import Backbone


def save(backbone: Backbone, folder: str | Path, layout: str = OURS) -> Path:
    """Write `folder` and return its file of weights.

    layout: "dinokit" (`model.safetensors` and `config.json`); "transformers", which `AutoModel.from_pretrained` reads;
    "timm", which `timm.create_model("local-dir:FOLDER", pretrained=True)` reads; "meta", one `.pth` file in Meta's key
    layout. Weights keep the number format that they have. What a layout leaves out without changing the features is
    said by a `LossWarning`. Raises `UserError` where the layout cannot hold the network, naming the property, and
    where nothing can be written.
    """
    return export_model(folder, backbone.stored.state_dict(), backbone.info, layout)
