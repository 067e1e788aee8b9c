"""The whole configuration of a pretraining run: frozen, checked once, written beside the run as `recipe.toml`.

Each part is a dataclass whose defaults work. A preset is a TOML file with the fields it changes; `--set
optimizer.lr=1e-4` changes one more.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from dinokit.backbones.catalog import spec_of
from dinokit.errors import UserError
from dinokit.pretrain.crops import CropSettings
from dinokit.pretrain.objectives import (
    CodingRateObjective,
    CodingRateSettings,
    Dinov3Objective,
    Dinov3Settings,
    Objective,
)


@dataclass(frozen=True)
class MaskSettings:
    """Which patches of the student's global crops are hidden."""

    probability: float = 0.5
    """Share of the global crops that are masked at all."""
    ratio: tuple[float, float] = (0.1, 0.5)
    """Least and greatest share of hidden patches in a masked crop."""


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW and its schedule."""

    lr: float = 1e-3
    """Learning rate after the warm-up."""
    warmup: int = 500
    """Steps from 0 to `lr`."""
    cooldown: int = 0
    """Steps at the end of the run over which the learning rate falls to 0."""
    weight_decay: float = 0.04
    beta1: float = 0.9
    beta2: float = 0.99
    layer_decay: float = 1.0
    """Factor on the learning rate from each block to the one before it (published: 0.98)."""
    patch_embed_multiplier: float = 1.0
    """Factor on the patch embedding's learning rate (published: 0.2)."""
    clip: float = 3.0
    """Greatest gradient norm of the backbone and of each head."""
    freeze_last_layer: int = 0
    """Steps in which the prototypes do not move."""


@dataclass(frozen=True)
class TeacherSettings:
    """The moving average."""

    momentum: float = 0.994
    momentum_end: float = 0.994
    """Reached by a half cosine at the end of the run, if the run has an end."""


@dataclass(frozen=True)
class RunSettings:
    """How long, how large, how often."""

    batch: int = 64
    """Pictures a step."""
    steps: int = 0
    """Length of the run; 0 goes on until it is stopped."""
    seed: int = 0
    picture_side: int = 160
    """Side in pixels at which pictures wait in memory; crops are cut out of these."""
    save_every: int = 1000
    probe_every: int = 1000
    """Steps between kNN probes, where the data has labels; 0 for none."""
    log_every: int = 20
    memory_limit: float = 8.0
    """GiB of decoded pictures kept in memory; larger sets are decoded as they come."""


@dataclass(frozen=True)
class Stage:
    """A part of the run with crops of its own size: small crops first learn more in the same time."""

    steps: int
    global_size: int
    local_size: int


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run, except the pictures."""

    network: str = "dinokit_vitt16"
    drop_path: float = 0.0
    layer_scale: float = 0.1
    """Initial factor of the residual branches (published: 1e-5, for far longer runs)."""
    objective: Literal["dinov3", "coding-rate"] = "coding-rate"
    dinov3: Dinov3Settings = field(default_factory=Dinov3Settings)
    coding_rate: CodingRateSettings = field(default_factory=CodingRateSettings)
    crops: CropSettings = field(default_factory=lambda: CropSettings(64, 32, 4))
    stages: tuple[Stage, ...] = ()
    """Crop sizes from the start on, one stage after another; `crops` has the sizes after the last."""
    masks: MaskSettings = field(default_factory=MaskSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    teacher: TeacherSettings = field(default_factory=TeacherSettings)
    run: RunSettings = field(default_factory=RunSettings)

    def __post_init__(self) -> None:
        patch = spec_of(self.network).patch_size
        sizes = [(self.crops.global_size, self.crops.local_size)]
        for size in {side for pair in sizes + [(s.global_size, s.local_size) for s in self.stages] for side in pair}:
            if size % patch:
                raise UserError(f"a crop of {size} px does not fit patches of {patch} px", "give multiples of them")
        bounds = {
            "run.batch": (self.run.batch, 2),
            "run.steps": (self.run.steps, 0),
            "run.picture_side": (self.run.picture_side, 16),
            "run.save_every": (self.run.save_every, 1),
            "run.log_every": (self.run.log_every, 1),
            "run.probe_every": (self.run.probe_every, 0),
            "optimizer.warmup": (self.optimizer.warmup, 0),
            "optimizer.cooldown": (self.optimizer.cooldown, 0),
        }
        for name, (value, least) in bounds.items():
            if value < least:
                raise UserError(f"{name} = {value} is too small", f"give at least {least}")
        if self.optimizer.cooldown and not self.run.steps:
            raise UserError("optimizer.cooldown needs an end of the run", "set run.steps too")
        for name, share in (("teacher.momentum", self.teacher.momentum), ("drop_path", self.drop_path)):
            if not 0 <= share < 1:
                raise UserError(f"{name} = {share} is out of bounds", "give 0 or more and less than 1")
        if not (self.optimizer.lr > 0 and self.optimizer.clip > 0):
            raise UserError("optimizer.lr and optimizer.clip must be positive", "try 1e-3 and 3.0")

    def build_objective(self) -> Objective:
        if self.objective == "dinov3":
            return Dinov3Objective(self.dinov3)
        return CodingRateObjective(self.coding_rate)

    def crops_at(self, step: int) -> CropSettings:
        """The crop settings at `step`, by the stages."""
        end = 0
        for stage in self.stages:
            end += stage.steps
            if step < end:
                return dataclasses.replace(self.crops, global_size=stage.global_size, local_size=stage.local_size)
        return self.crops
