"""Loads a model from whatever names it: a catalogue name, a folder, a run, a bare file, or `random:NAME`.

Weights are data: safetensors, or pickles restricted to tensors. A pickle that carries code is refused.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import pickle
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dinokit.backbones.catalog import NETWORKS, spec_of
from dinokit.backbones.vit import VisionTransformer
from dinokit.checkpoints.layouts import meta
from dinokit.checkpoints.model import LoadedModel, ModelInfo, info_from_config, override_spec
from dinokit.checkpoints.save import CONFIG, WEIGHTS
from dinokit.errors import UserError
from dinokit.images.normalize import IMAGENET, SATELLITE

BUNDLED = "dinokit_vitt16"
_PICKLES = (".pth", ".pt", ".bin", ".ckpt")


def load_model(source: str | Path, **overrides: Any) -> LoadedModel:
    """Load a network.

    source: `dinokit_vitt16` (bundled); a folder written by dinokit; a run folder; a `.safetensors` or `.pth` file in
    Meta's or our key layout; `random:NAME` or `random:NAME:SEED` for an untrained network.
    overrides: fields of `ViTSpec` that a bare file cannot tell, such as `norm_eps`.
    Raises `UserError` for a name, file or weights that cannot be used.
    """
    text = str(source)
    if text.startswith("random:"):
        return _random(text, overrides)
    path = Path(text)
    if text in NETWORKS and not path.exists():
        return _load_folder(bundled_folder(text), overrides)
    if path.is_dir():
        return _load_folder(path, overrides)
    if path.is_file():
        return _load_file(path, overrides)
    near = difflib.get_close_matches(text, NETWORKS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"give a path, or one of {', '.join(NETWORKS)}"
    raise UserError(f"there is no model {text!r}", hint)


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
    if rest and not rest[0].isdecimal():
        raise UserError(f"the seed in {text!r} is not a whole number", "write random:NAME:SEED")
    spec = override_spec(spec_of(name), overrides)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rest[0]) if rest else 0)
        network = VisionTransformer(spec)
    return LoadedModel(network, ModelInfo(text, spec))


def _load_folder(folder: Path, overrides: Mapping[str, Any]) -> LoadedModel:
    if not (folder / CONFIG).exists() and (folder / "model" / CONFIG).exists():
        folder = folder / "model"
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(f"{folder} is no model: it has no {name}", "give a model folder, a run folder or a file")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (ValueError, OSError) as problem:
        raise UserError(f"{folder / CONFIG} cannot be read ({problem})", "save the model again") from None
    if not isinstance(config, dict):
        raise UserError(f"{folder / CONFIG} is not a dinokit config", "save the model again")
    info = info_from_config(config, str(folder / CONFIG))
    if info.weights_sha256 != file_sha256(folder / WEIGHTS):
        raise UserError(f"{folder / WEIGHTS} does not have the hash in {CONFIG}", "the file is damaged: copy it again")
    state = read_tensors(folder / WEIGHTS)
    return _build(state, info, overrides, str(folder / WEIGHTS))


def _load_file(path: Path, overrides: Mapping[str, Any]) -> LoadedModel:
    beside = path.parent / CONFIG
    if path.name == WEIGHTS and beside.is_file():
        return _load_folder(path.parent, overrides)
    state = meta.unwrap(read_tensors(path))
    digest = file_sha256(path)
    published = meta.PUBLISHED_FILES.get(digest[:8])
    spec, assumptions = meta.settle_unknowns(meta.spec_from_state(state), published, overrides)
    satellite = published is not None and published.endswith("sat493m")
    if published is None:
        assumptions.append("ImageNet picture statistics")
    info = ModelInfo(
        name=published or path.stem,
        spec=spec,
        statistics=SATELLITE if satellite else IMAGENET,
        weights_sha256=digest,
        assumptions=tuple(assumptions),
    )
    return _build(state, info, overrides, str(path))


def _build(state: Mapping[str, Tensor], info: ModelInfo, overrides: Mapping[str, Any], where: str) -> LoadedModel:
    spec = override_spec(info.spec, overrides)
    with torch.device("meta"):
        network = VisionTransformer(spec)
    _check_shapes(network.state_dict(), state, where)
    network.load_state_dict({key: value.float() for key, value in state.items()}, assign=True)
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    return LoadedModel(network, ModelInfo(**{**vars(info), "spec": spec}))


def _check_shapes(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], where: str) -> None:
    missing, surplus = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    wrong = [key for key in expected.keys() & state.keys() if expected[key].shape != state[key].shape]
    for keys, what in ((missing, "lacks"), (surplus, "has the unknown"), (sorted(wrong), "has the wrong shape for")):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise UserError(f"{where} {what} {keys[0]}{more}", "it is not the network that its config or shapes say")


def read_tensors(path: Path) -> Any:
    """The content of a weights file: tensors, possibly nested in dicts. `UserError` for anything else."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix in _PICKLES:
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(f"{path} carries more than tensors", "it is refused: only plain weights are loaded") from None
    except (SafetensorError, RuntimeError, EOFError, ValueError, KeyError, OSError) as problem:
        first = str(problem).strip().splitlines()[0][:120] if str(problem) else type(problem).__name__
        raise UserError(f"{path} cannot be read ({first})", "the file is damaged or not a checkpoint") from None
    raise UserError(f"{path} is not a weights file", f"its name must end in .safetensors or {', '.join(_PICKLES)}")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
