"""Loads a model from whatever names it: a catalogue name, a folder, a run, a file, a repository, a web address, or
`random:NAME`.

Weights are data: safetensors, or pickles restricted to tensors. A pickle that carries code is refused. Nothing is
built from a number that was not checked first, and files are mapped into memory rather than read.
"""

from __future__ import annotations

import difflib
import itertools
import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dinokit.backbones.catalog import NETWORKS, spec_of
from dinokit.backbones.network import build
from dinokit.checkpoints import hub
from dinokit.checkpoints.architecture import check_agreement, complete, spec_from_state, unread_facts
from dinokit.checkpoints.channels import fit_channels
from dinokit.checkpoints.files import CONFIG, WEIGHTS, digest_of, read_json, read_json_object, read_state, weights_files
from dinokit.checkpoints.layouts.layout import layout_of, layout_of_config
from dinokit.checkpoints.layouts.meta import PUBLISHED_FILES, promised_hash
from dinokit.checkpoints.layouts.strangers import recognize
from dinokit.checkpoints.layouts.transformers import PROCESSOR
from dinokit.checkpoints.model import (
    AssumptionWarning,
    LoadedModel,
    ModelInfo,
    fit_statistics,
    info_from_config,
    is_ours,
    override,
)
from dinokit.checkpoints.names import printable
from dinokit.checkpoints.weights import check_weight, file_sha256, plain_weights, read_tensors
from dinokit.errors import UserError
from dinokit.images.normalize import IMAGENET, SATELLITE

BUNDLED = "dinokit_vitt16"

RANDOM_LAYER_SCALE = 0.1
"""Of untrained ViTs: at the published 1e-5 all pictures have the same class token, a baseline that says nothing."""

Overrides = Mapping[str, Any]


def load_model(source: str | Path, **overrides: Any) -> LoadedModel:
    """Load a network.

    source: `dinokit_vitt16` (bundled); another catalogue name or a repository OWNER/NAME (from the Hugging Face Hub);
    a folder of dinokit, transformers or timm; a run folder; a `.safetensors` or `.pth` file in any of these layouts or
    Meta's, by path or https address; `random:NAME` or `random:NAME:SEED` for an untrained network.
    overrides: what a file cannot tell: fields of the spec such as `norm_eps`, of its `RopeSpec` such as
    `rope_normalize`, and `mean`, `std` (a number each channel, for values from 0 to 1), `image_size` (pixels),
    `map_layer` (see `ModelInfo`). What is assumed instead is said by an `AssumptionWarning` and kept in
    `info.assumptions`. `in_channels` makes a network for pictures of another number of channels, as
    `channels.fit_channels` says.
    Raises `UserError` for a name, file or weights that cannot be used.
    """
    text = str(source)
    model = _load_any(text, overrides)
    place = os.path.abspath(text) if os.path.exists(text) else text
    return replace(model, info=replace(model.info, source=place))


def is_known(name: str) -> bool:
    """Whether `name` stands for a model wherever it is loaded: that of the package, a published or a random one."""
    return name == BUNDLED or name in hub.REPOSITORIES or name.startswith("random:")


def _load_any(text: str, overrides: Overrides) -> LoadedModel:
    if not text:
        raise UserError("no model is given", f"give a path, or {BUNDLED}")
    if text.startswith("random:"):
        return _random(text, overrides)
    path = Path(text)
    try:
        is_folder, is_file, exists = path.is_dir(), path.is_file(), path.exists()
    except OSError as problem:  # a name that is too long, for example
        raise UserError(f"there is no model {text[:60]!r} ({problem.strerror})", "check the path") from None
    if is_folder:
        return _load_folder(path, overrides)
    if is_file:
        return _load_file(path, overrides)
    if exists:
        raise UserError(f"{text} is neither a file nor a folder", "give the path of a model")
    return _load_name(text, overrides)


def _load_name(text: str, overrides: Overrides) -> LoadedModel:
    """A model that lies in the package or is downloaded."""
    if text == BUNDLED:
        return _load_folder(bundled_folder(text), overrides)
    if text in hub.REPOSITORIES:
        return _load_folder(hub.fetch_repository(hub.REPOSITORIES[text]), overrides, text)
    if text in NETWORKS:
        raise UserError(f"nobody published weights of {text}", f"give a file of them; random:{text} is untrained")
    if hub.is_address(text):
        return _load_file(hub.fetch_address(text), overrides)
    if hub.is_repository(text) and not Path(text).parent.is_dir():  # else it is meant as a path
        names = {repository: name for name, repository in hub.REPOSITORIES.items()}
        return _load_folder(hub.fetch_repository(text), overrides, names.get(text, text.rpartition("/")[2]))
    if Path(text).suffix or len(Path(text).parts) > 1:
        raise UserError(f"there is no file or folder {text}", "check the path")
    raise UserError(f"there is no model {text!r}", _suggest(text))


def _suggest(name: str) -> str:
    """What to do about a name that is no model's."""
    near = difflib.get_close_matches(name.lower(), NETWORKS, n=1)
    if near:
        return f"did you mean {near[0]}?"
    return f"give a path, {BUNDLED}, or random:NAME for an untrained network ({', '.join(NETWORKS)})"


def bundled_folder(name: str) -> Path:
    """Where the package keeps the model `name`."""
    return Path(str(resources.files("dinokit"))) / "checkpoints" / "bundled" / name


def _random(text: str, overrides: Overrides) -> LoadedModel:
    _, name, *rest = text.split(":")
    seed = rest[0] if rest else "0"
    if len(rest) > 1 or not seed.isdecimal() or len(seed) > 18:
        raise UserError(f"the seed in {text!r} is not a whole number", "write random:NAME:SEED")
    info = override(ModelInfo(text, spec_of(name)), {"layer_scale": RANDOM_LAYER_SCALE, **overrides}, text)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(seed))
        return LoadedModel(build(info.spec), info)


def _load_folder(folder: Path, overrides: Overrides, name: str = "") -> LoadedModel:
    """A folder of dinokit, transformers or timm, or a run. name: of what is in it, where it is not the folder's."""
    if not (folder / CONFIG).exists() and (folder / "model" / CONFIG).exists():
        folder = folder / "model"
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} is no model: it has no {CONFIG}", "give a model folder, a run folder or a file")
    config = read_json(folder / CONFIG)
    if isinstance(config, Mapping) and not is_ours(config) and ("model_type" in config or "architecture" in config):
        return _load_published(weights_files(folder), _read_facts(folder), overrides, name or folder.resolve().name)
    return _load_ours(folder, overrides)


def _load_ours(folder: Path, overrides: Overrides) -> LoadedModel:
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise UserError(f"{folder} is no model: it has no {WEIGHTS}", "give a model folder, a run folder or a file")
    for attempt in itertools.count():
        info = info_from_config(read_json(folder / CONFIG), str(folder / CONFIG))
        if info.weights_sha256 == file_sha256(weights):
            break
        if attempt:  # a run may have saved between the two readings, but not twice
            hint = "is it being written? otherwise it is damaged: copy it again"
            raise UserError(f"{weights} does not have the hash in {CONFIG}", hint)
    return _build(read_tensors(weights), info, override(info, overrides, str(folder)), str(weights))


def _load_file(path: Path, overrides: Overrides) -> LoadedModel:
    config = path.parent / CONFIG
    beside = path.name == WEIGHTS and config.is_file()
    if beside and is_ours(read_json(config)):
        return _load_ours(path.parent, overrides)
    return _load_published([path], _read_facts(path.parent) if beside else {}, overrides, printable(path.stem))


def _read_facts(folder: Path) -> dict[str, Any]:
    """What the JSON files of a published folder say beside the weights, by the names that `load_model` takes."""
    config = read_json_object(folder / CONFIG)
    try:
        return layout_of_config(config).facts(config, read_json_object(folder / PROCESSOR))
    except UserError as problem:
        raise UserError(f"{folder / CONFIG}: {problem.message}", problem.hint) from None


def _load_published(files: list[Path], facts: dict[str, Any], overrides: Overrides, name: str) -> LoadedModel:
    """Weights that another program wrote. facts: what the files beside them say."""
    where, state, digest = str(files[0]), read_state(files), digest_of(files)
    promised = promised_hash(files[0].name)
    if promised is not None and not digest.startswith(promised):
        raise UserError(f"{where} does not have the hash that its name promises", "it is damaged: download it again")
    published = PUBLISHED_FILES.get(digest[:8])
    name = published or name
    known = {**facts, **overrides}
    try:
        state = _translate(state)
        spec, assumed = spec_from_state(state, known)
        check_agreement(spec, facts)
    except UserError as problem:
        raise UserError(f"{where}: {problem.message}", problem.hint) from None
    statistics = fit_statistics(SATELLITE if "sat493m" in name else IMAGENET, spec.in_channels)
    info = ModelInfo(name, spec, statistics, weights_sha256=digest, assumptions=tuple(assumed))
    if published is not None:
        info = replace(info, spec=spec_of(published), assumptions=())
    before = override(info, unread_facts(facts), where)
    after = override(before, overrides, where)
    model = _build(complete(state, after.spec), before, after, where)
    if info.assumptions:
        assumed_lines = f"assumed: {', '.join(info.assumptions)} (dinokit.load(...) takes others)"
        warnings.warn(f"{where} does not say everything; {assumed_lines}", AssumptionWarning, stacklevel=6)
    return model


def _translate(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights under our names, whatever the layout."""
    stranger, layout = recognize(state), layout_of(state)
    if stranger is not None:
        raise UserError(f"these are the weights of {stranger[0]}", stranger[1])
    if layout is None:
        return state
    for key, value in state.items():
        check_weight(key, value, "read off the weights")
    try:
        return layout.to_ours(state)
    except KeyError as problem:
        raise UserError(f"these weights lack {problem.args[0]}", "the file is damaged or not whole") from None
    except (RuntimeError, IndexError, TypeError) as problem:  # parts that cannot be joined
        first = str(problem).partition("\n")[0][:120]
        raise UserError(f"these weights do not fit together ({first})", "the file is damaged") from None


def _build(state: Mapping[str, Tensor], before: ModelInfo, info: ModelInfo, where: str) -> LoadedModel:
    """before: what the weights were made for; info: what they shall be used for."""
    with torch.device("meta"):
        expected, network = build(before.spec).state_dict(), build(info.spec)
    _check_shapes(expected, state, where)
    weights = fit_channels(plain_weights(state, where), before, info)
    if info.spec != before.spec:
        _check_shapes(network.state_dict(), weights, where)
    network.load_state_dict(weights, assign=True)
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
