"""What a model is, as facts for people."""

from __future__ import annotations

from typing import Any

from dinokit.checkpoints.load import load_model


def describe_model(source: str) -> dict[str, Any]:
    """Facts of the model that `source` names. Raises `UserError` if it cannot be loaded."""
    model = load_model(source)
    spec, info = model.info.spec, model.info
    return {
        "name": info.name,
        "parameters": sum(parameter.numel() for parameter in model.network.parameters()),
        "width": spec.width,
        "blocks": spec.depth,
        "heads": spec.heads,
        "patch": spec.patch_size,
        "registers": spec.registers,
        "feed_forward": f"{spec.ffn} {spec.ffn_hidden}",
        "image_size": info.image_size,
        "mean": list(info.statistics.mean),
        "std": list(info.statistics.std),
        "weights_sha256": info.weights_sha256 or "none (random)",
        "assumed": ", ".join(info.assumptions) or "nothing",
    }
