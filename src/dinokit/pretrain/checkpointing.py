"""A run's folder: everything to resume, and the model that others load.

`checkpoints/step-00001000/` appears whole or not at all (written under another name, then renamed); the two latest
are kept. `model/` is the teacher's backbone, with the heads beside it so that a later run can start from both.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dinokit.checkpoints.model import ModelInfo, info_from_config
from dinokit.checkpoints.save import save_model, save_tensors, write_atomically
from dinokit.errors import UserError
from dinokit.pretrain.objectives import Heads
from dinokit.pretrain.student_teacher import StudentTeacher

KEPT = 2
HEADS = "heads.safetensors"


def save_checkpoint(
    run: Path,
    info: ModelInfo,
    step: int,
    networks: StudentTeacher,
    optimizer: torch.optim.Optimizer,
    progress: Mapping[str, Any],
) -> None:
    """Write `checkpoints/step-…` and delete all but the latest two."""
    folder = run / "checkpoints" / f"step-{step:08d}"
    if folder.is_dir():
        return
    for left in folder.parent.glob(".step-*"):  # by a run that was killed while it saved
        shutil.rmtree(left, ignore_errors=True)
    temporary = folder.with_name(f".{folder.name}")
    try:
        temporary.mkdir(parents=True)
        states = {"student": networks.student.state_dict(), "teacher": networks.teacher.state_dict()}
        save_tensors(temporary / "networks.safetensors", flatten(states))
        save_tensors(temporary / "optimizer.safetensors", flatten(_moments(optimizer)))
        content = {"step": step, "model": info.to_config(), **progress}
        write_atomically(temporary / "progress.json", json.dumps(content).encode())
        os.replace(temporary, folder)
    except OSError as problem:
        raise UserError(f"cannot write {folder} ({problem.strerror})", "free some space, then run again") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in list_checkpoints(run)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def _moments(optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Tensor]]:
    """What the optimiser remembers, by the names of the parameters."""
    named = [pair for group in optimizer.param_groups for pair in zip(group["names"], group["params"], strict=True)]
    return {name: optimizer.state[parameter] for name, parameter in named if parameter in optimizer.state}


def _load_moments(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `_moments`; parameters that no loss has reached yet have none."""
    moved = {key.rpartition(".")[0] for key in tensors}
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            if name not in moved:
                continue
            own = {key: tensors[f"{name}.{key}"].to(parameter.device) for key in ("step", "exp_avg", "exp_avg_sq")}
            if own["exp_avg"].shape != parameter.shape or own["exp_avg_sq"].shape != parameter.shape:
                raise ValueError(f"the moments of {name} have another shape")
            optimizer.state[parameter] = own


def flatten(states: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{part}.{name}": value for part, state in states.items() for name, value in state.items()}


def list_checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    found = (run / "checkpoints").glob("step-*")
    return sorted(path for path in found if re.fullmatch(r"step-\d{8,}", path.name) and path.is_dir())


def read_info(run: Path) -> ModelInfo:
    """What the network of the latest checkpoint is."""
    path = list_checkpoints(run)[-1] / "progress.json"
    try:
        config = json.loads(path.read_text())["model"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{path} is damaged", "delete that checkpoint to go on from the one before") from None
    return info_from_config(config, str(path))


def resume(run: Path, networks: StudentTeacher, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
    """Load the latest checkpoint into `networks` and `optimizer`; returns its progress, or None if there is none."""
    checkpoints = list_checkpoints(run)
    if not checkpoints:
        return None
    folder = checkpoints[-1]
    try:
        tensors = load_file(folder / "networks.safetensors")
        for part, network in (("student", networks.student), ("teacher", networks.teacher)):
            own = {k.removeprefix(f"{part}."): v for k, v in tensors.items() if k.startswith(f"{part}.")}
            network.load_state_dict(own)
        _load_moments(optimizer, load_file(folder / "optimizer.safetensors"))
        progress: dict[str, Any] = json.loads((folder / "progress.json").read_text())
    except Exception as problem:
        other = f"use the recipe that the run was started with, or go on with --init {run} and another --out"
        hint = other if isinstance(problem, RuntimeError) else "delete that folder to go on from the one before"
        raise UserError(f"{folder} cannot be resumed ({' '.join(str(problem).split())[:120]})", hint) from None
    return progress


def shorten_log(run: Path, step: int) -> None:
    """Drop the log's lines after `step`: what was done past the latest checkpoint is lost and done again."""
    log = run / "log.jsonl"
    if not log.is_file():
        return
    lines = log.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if _step_of(line) <= step]
    if len(kept) < len(lines):
        write_atomically(log, b"".join(kept))


def _step_of(line: bytes) -> float:
    try:
        return float(json.loads(line)["step"]) if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf


def save_run_model(run: Path, networks: StudentTeacher, info: ModelInfo) -> ModelInfo:
    """Write `model/`: the teacher's backbone and, beside it, its heads."""
    backbone, heads = networks.teacher.backbone.state_dict(), networks.teacher.heads.state_dict()
    return save_model(run / "model", backbone, info, beside={HEADS: heads})


def load_heads(source: str | Path, heads: Heads) -> list[str]:
    """Load the heads that lie beside a model into those of `heads` with the same shapes; returns their names."""
    folder = Path(source).parent if Path(source).is_file() else Path(source)
    for path in (folder / HEADS, folder / "model" / HEADS):
        if path.is_file():
            try:
                state = load_file(path)
            except Exception as problem:
                raise UserError(f"{path} cannot be read ({problem})", "delete it to start with new heads") from None
            return [name for name, head in heads.items() if _load_head(head, name, state)]
    return []


def _load_head(head: nn.Module, name: str, state: Mapping[str, Tensor]) -> bool:
    own = {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
    if {key: value.shape for key, value in own.items()} != {k: v.shape for k, v in head.state_dict().items()}:
        return False
    head.load_state_dict({key: value.float() for key, value in own.items()})
    return True
