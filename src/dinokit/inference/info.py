"""What a model is, as facts for people."""

from __future__ import annotations

from typing import Any

from dinokit.backbones.convnext import ConvNeXtSpec
from dinokit.backbones.network import Spec
from dinokit.backbones.rope import RopeSpec
from dinokit.checkpoints.model import LoadedModel
from dinokit.inference.precision import choose_device, choose_dtype


def describe_model(model: LoadedModel, device: str = "auto", precision: str = "auto") -> dict[str, Any]:
    """Facts of a model: shape, size, what it runs with, where its weights come from, what was assumed, and in what a
    backbone would compute with it. Nothing is moved to that device.
    """
    spec, info, place = model.info.spec, model.info, choose_device(device)
    dtype = choose_dtype(precision, place)
    return {
        "name": info.name,
        "parameters": sum(parameter.numel() for parameter in model.network.parameters()),
        **_describe_spec(spec),
        "image_size": info.image_size,
        "map_layer": info.map_layer,
        "mean": list(info.statistics.mean),
        "std": list(info.statistics.std),
        "weights_sha256": info.weights_sha256 or "none (random)",
        "computes": f"{str(dtype).removeprefix('torch.')} on {place}",
        "assumed": ", ".join(info.assumptions) or "nothing",
    }


def _describe_spec(spec: Spec) -> dict[str, Any]:
    if isinstance(spec, ConvNeXtSpec):
        return {
            "widths": list(spec.widths),
            "blocks": list(spec.depths),
            "cell": spec.patch_size,
            "norm_eps": spec.norm_eps,
        }
    return {
        "width": spec.width,
        "blocks": spec.depth,
        "heads": spec.heads,
        "patch": spec.patch_size,
        "registers": spec.registers,
        "feed_forward": f"{spec.ffn} {spec.ffn_hidden}",
        "norm_eps": spec.norm_eps,
        "rope": _describe_rope(spec.rope),
    }


def _describe_rope(rope: RopeSpec) -> str:
    """What turns positions into angles in inference."""
    periods = f"base {rope.base:g}" if rope.base is not None else f"periods {rope.min_period:g} to {rope.max_period:g}"
    return f"{periods}, coordinates normalized {rope.normalize}"
