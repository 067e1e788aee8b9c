"""Bounds of a network's shape, checked before anything is built from numbers that a file or a person gave."""

from __future__ import annotations

import math
from typing import Any

from dinokit.backbones.convnext import ConvNeXtSpec
from dinokit.backbones.network import Spec
from dinokit.backbones.rope import RopeSpec
from dinokit.backbones.vit import ViTSpec
from dinokit.errors import UserError

_COUNTS = {
    "width": (1, 16384),
    "depth": (1, 512),
    "heads": (1, 1024),
    "ffn_hidden": (1, 131072),
    "patch_size": (1, 256),
    "in_channels": (1, 64),
    "registers": (0, 1024),
}
"""Field -> least and greatest value: four times the largest published network and more."""
_SWITCHES = ("qkv_bias", "mask_k_bias", "untied_cls_norm", "local_cls_norm")
_CELLS = (1, 2, 4, 8, 16, 32)
"""Of a ConvNeXt: parts of its stride."""
_NORMALIZE = ("separate", "max", "min")


def check_spec(spec: Spec, where: str) -> Spec:
    """`spec` itself, or a `UserError` that names `where`, the field, its value and its bounds."""
    if isinstance(spec, ConvNeXtSpec):
        _check_convnext(spec, where)
    else:
        _check_vit(spec, where)
    return spec


def _check_convnext(spec: ConvNeXtSpec, where: str) -> None:
    for name, bounds in (("depths", _COUNTS["depth"]), ("widths", _COUNTS["width"])):
        values = getattr(spec, name)
        if not isinstance(values, tuple) or len(values) != 4:
            raise _error(where, name, values, "must be four whole numbers")
        for value in values:
            _check_count(where, name, value, bounds)
    _check_count(where, "in_channels", spec.in_channels, _COUNTS["in_channels"])
    if type(spec.patch_size) is not int or spec.patch_size not in _CELLS:
        raise _error(where, "patch_size", spec.patch_size, f"must be one of {', '.join(map(str, _CELLS))}")
    _check_number(where, "norm_eps", spec.norm_eps, 0.0, 1.0)
    _check_number(where, "layer_scale", spec.layer_scale, -1e4, 1e4)


def _check_count(where: str, name: str, value: object, bounds: tuple[int, int]) -> None:
    least, most = bounds
    if type(value) is not int or not least <= value <= most:
        raise _error(where, name, value, f"must be a whole number from {least} to {most}")


def _check_vit(spec: ViTSpec, where: str) -> None:
    for name, bounds in _COUNTS.items():
        _check_count(where, name, getattr(spec, name), bounds)
    for name in _SWITCHES:
        if type(getattr(spec, name)) is not bool:
            raise _error(where, name, getattr(spec, name), "must be true or false")
    if spec.ffn not in ("mlp", "swiglu"):
        raise _error(where, "ffn", spec.ffn, "must be mlp or swiglu")
    if spec.width % (4 * spec.heads):
        raise _error(where, "heads", spec.heads, f"must divide the width {spec.width} into multiples of 4")
    _check_number(where, "norm_eps", spec.norm_eps, 0.0, 1.0)
    _check_number(where, "layer_scale", spec.layer_scale, -1e4, 1e4, optional=True)
    if not _is_number(spec.drop_path) or not 0 <= spec.drop_path < 1:
        raise _error(where, "drop_path", spec.drop_path, "must be at least 0 and below 1")
    if not isinstance(spec.rope, RopeSpec):
        raise _error(where, "rope", spec.rope, "must be a RopeSpec")
    _check_rope(spec.rope, where)


def _check_rope(rope: RopeSpec, where: str) -> None:
    if rope.normalize not in _NORMALIZE:
        raise _error(where, "rope.normalize", rope.normalize, f"must be {', '.join(_NORMALIZE)}")
    for name in ("base", "min_period", "max_period", "jitter", "rescale"):
        _check_number(where, f"rope.{name}", getattr(rope, name), 0.0, 1e9, optional=True)
    if rope.shift is not None and (not _is_number(rope.shift) or not 0 <= rope.shift <= 100):
        raise _error(where, "rope.shift", rope.shift, "must be from 0 to 100")


def _check_number(where: str, name: str, value: Any, above: float, most: float, optional: bool = False) -> None:
    if value is None and optional:
        return
    if not _is_number(value) or not above < value <= most:
        raise _error(where, name, value, f"must be a number above {above:g}, at most {most:g}")


def _is_number(value: object) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))


def _error(where: str, name: str, value: object, rule: str) -> UserError:
    shown = repr(value)[:60]
    return UserError(f"{where}: {name} is {shown}", f"it {rule}")
