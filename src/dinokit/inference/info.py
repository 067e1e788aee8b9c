"""What a model is, as facts for people."""

from __future__ import annotations

from typing import Any

from dinokit.inference.backbone import Backbone


def describe_model(backbone: Backbone) -> dict[str, Any]:
    """Facts of a model: shape, size, statistics, where its weights come from, what was assumed."""
    spec, info = backbone.spec, backbone.info
    return {
        "name": info.name,
        "parameters": sum(parameter.numel() for parameter in backbone.network.parameters()),
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
        "computes": f"{str(backbone.dtype).removeprefix('torch.')} on {backbone.device}",
        "assumed": ", ".join(info.assumptions) or "nothing",
    }
