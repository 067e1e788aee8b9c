"""Loads a model from whatever names it: a catalogue name, a folder, a run, a bare file, or `random:NAME`.

Weights are data: safetensors, or pickles restricted to tensors. A pickle that carries code is refused. Nothing is
built from a number that was not checked first.
"""

from __future__ import annotations

import difflib
import itertools
import json
import warnings
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dinokit.backbones.catalog import NETWORKS, spec_of
from dinokit.backbones.vit import VisionTransformer
from dinokit.checkpoints.layouts import meta
from dinokit.checkpoints.model import AssumptionWarning, LoadedModel, ModelInfo, info_from_config, is_ours, override
from dinokit.checkpoints.names import printable
from dinokit.checkpoints.save import CONFIG, WEIGHTS
from dinokit.checkpoints.weights import file_sha256, plain_weights, read_tensors
from dinokit.errors import UserError
from dinokit.images.normalize import IMAGENET, SATELLITE

BUNDLED = "dinokit_vitt16"
_MAX_CONFIG = 1 << 20  # bytes

RANDOM_LAYER_SCALE = 0.1
"""Of untrained networks: at the published 1e-5 all pictures have the same class token, a baseline that says nothing."""


def load_model(source: str | Path, **overrides: Any) -> LoadedModel:
    """Load a network.

    source: `dinokit_vitt16` (bundled); a folder written by dinokit; a run folder; a `.safetensors` or `.pth` file in
    Meta's or our key layout; `random:NAME` or `random:NAME:SEED` for an untrained network.
    overrides: what a bare file cannot tell: fields of `ViTSpec` such as `norm_eps`, of its `RopeSpec` such as
    `rope_normalize`, and `mean`, `std` (3 numbers each, for values from 0 to 1), `image_size` (pixels). What is
    assumed instead is said by an `AssumptionWarning` and kept in `info.assumptions`.
    Raises `UserError` for a name, file or weights that cannot be used.
    """
    text = str(source)
    if not text:
        raise UserError("no model is given", f"give a path, or {BUNDLED}")
    if text.startswith("random:"):
        return _random(text, overrides)
    path = Path(text)
    try:
        is_folder, is_file, exists = path.is_dir(), path.is_file(), path.exists()
    except OSError as problem:  # a name that is too long, for example
        raise UserError(f"there is no model {text[:60]!r} ({problem.strerror})", "check the path") from None
    if text in NETWORKS and not (is_folder or is_file):
        return _load_folder(bundled_folder(text), overrides)
    if is_folder:
        return _load_folder(path, overrides)
    if is_file:
        return _load_file(path, overrides)
    if exists:
        raise UserError(f"{text} is neither a file nor a folder", "give the path of a model")
    if path.suffix or len(path.parts) > 1:
        raise UserError(f"there is no file or folder {text}", "check the path")
    raise UserError(f"there is no model {text!r}", _suggest(text))


def _suggest(name: str) -> str:
    """What to do about a name that is no model's."""
    near = difflib.get_close_matches(name.lower(), NETWORKS, n=1)
    if not near:
        return f"give a path, {BUNDLED}, or random:NAME for an untrained network ({', '.join(NETWORKS)})"
    if near[0] == BUNDLED:
        return f"did you mean {BUNDLED}?"
    return f"did you mean {near[0]}? give the path of its weights, or random:{near[0]} for an untrained network"


def bundled_folder(name: str) -> Path:
    """Where the package keeps the model `name`; a `UserError` for networks whose weights it cannot carry."""
    if name != BUNDLED:
        raise UserError(
            f"the weights of {name} are not part of dinokit",
            f"accept Meta's licence, download the .pth and give its path; random:{name} is the untrained network",
        )
    return Path(str(resources.files("dinokit"))) / "checkpoints" / "bundled" / name


def _random(text: str, overrides: Mapping[str, Any]) -> LoadedModel:
    _, name, *rest = text.split(":")
    seed = rest[0] if rest else "0"
    if len(rest) > 1 or not seed.isdecimal() or len(seed) > 18:
        raise UserError(f"the seed in {text!r} is not a whole number", "write random:NAME:SEED")
    info = override(ModelInfo(text, spec_of(name)), {"layer_scale": RANDOM_LAYER_SCALE, **overrides}, text)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(seed))
        network = VisionTransformer(info.spec)
    return LoadedModel(network, info)


def _load_folder(folder: Path, overrides: Mapping[str, Any]) -> LoadedModel:
    if not (folder / CONFIG).exists() and (folder / "model" / CONFIG).exists():
        folder = folder / "model"
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(f"{folder} is no model: it has no {name}", "give a model folder, a run folder or a file")
    for attempt in itertools.count():
        info = info_from_config(_read_config(folder / CONFIG), str(folder / CONFIG))
        if info.weights_sha256 == file_sha256(folder / WEIGHTS):
            break
        if attempt:  # a run may have saved between the two readings, but not twice
            hint = "is it being written? otherwise it is damaged: copy it again"
            raise UserError(f"{folder / WEIGHTS} does not have the hash in {CONFIG}", hint)
    state = read_tensors(folder / WEIGHTS)
    return _build(state, override(info, overrides, str(folder)), str(folder / WEIGHTS))


def _read_config(path: Path) -> Any:
    try:
        with open(path, "rb") as file:
            content = file.read(_MAX_CONFIG + 1)
        if len(content) > _MAX_CONFIG:
            raise ValueError(f"it is larger than {_MAX_CONFIG >> 20} MiB")
        return json.loads(content.decode("utf-8"))
    except (ValueError, OSError, RecursionError) as problem:
        raise UserError(f"{path} cannot be read ({problem})", "save the model again") from None


def _load_file(path: Path, overrides: Mapping[str, Any]) -> LoadedModel:
    config = path.parent / CONFIG
    if path.name == WEIGHTS and config.is_file() and is_ours(_read_config(config)):
        return _load_folder(path.parent, overrides)
    content = read_tensors(path)
    digest = file_sha256(path)
    published = meta.PUBLISHED_FILES.get(digest[:8])
    try:
        state = meta.unwrap(content)
        spec = meta.spec_from_state(state)
    except UserError as problem:
        raise UserError(f"{path}: {problem.message}", problem.hint) from None
    assumptions: tuple[str, ...] = ()
    if published is None:
        spec, assumptions = meta.settle_unknowns(spec, overrides.keys())
    else:
        spec = spec_of(published)
    satellite = published is not None and published.endswith("sat493m")
    statistics = SATELLITE if satellite else IMAGENET
    info = ModelInfo(
        published or printable(path.stem), spec, statistics, weights_sha256=digest, assumptions=assumptions
    )
    model = _build(state, override(info, overrides, str(path)), str(path))
    if assumptions:
        message = f"{path} does not say everything; assumed: {', '.join(assumptions)} (dinokit.load(...) takes others)"
        warnings.warn(message, AssumptionWarning, stacklevel=4)
    return model


def _build(state: Mapping[str, Tensor], info: ModelInfo, where: str) -> LoadedModel:
    with torch.device("meta"):
        network = VisionTransformer(info.spec)
    _check_shapes(network.state_dict(), state, where)
    network.load_state_dict(plain_weights(state, where), assign=True)
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    return LoadedModel(network, info)


def _check_shapes(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], where: str) -> None:
    """Raise `UserError` naming the first key, in the order of the network, that is missing, unknown or misshapen."""
    missing = [f"lacks {key}" for key in expected if key not in state]
    surplus = [f"has the unknown {key[:100]}" for key in state if key not in expected]
    wrong = [
        f"has {key} of shape {list(state[key].shape)}, not {list(tensor.shape)}"
        for key, tensor in expected.items()
        if key in state and state[key].shape != tensor.shape
    ]
    faults = wrong or missing or surplus
    if faults:
        more = f" and {len(faults) - 1} more such" if len(faults) > 1 else ""
        raise UserError(f"{where} {faults[0]}{more}", "it is not the network that its config or shapes say")
