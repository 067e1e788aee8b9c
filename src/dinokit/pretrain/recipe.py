"""The whole configuration of a pretraining run: frozen, checked once, written beside the run as `recipe.toml`.

Each part is a dataclass whose defaults work. A preset is a TOML file with the fields it changes; `--set
optimizer.lr=1e-4` changes one more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, Final, Literal

from dinokit.backbones.catalog import spec_of
from dinokit.errors import UserError
from dinokit.pretrain.coding_rate_objective import CodingRateObjective, CodingRateSettings
from dinokit.pretrain.crops import CropSettings
from dinokit.pretrain.dinov3_objective import Dinov3Objective, Dinov3Settings
from dinokit.pretrain.objectives import Objective
from dinokit.pretrain.schedules import Ramp, ScalingRule, Schedules, batch_size_factor


@dataclass(frozen=True)
class MaskSettings:
    """Which patches of the student's global crops are hidden."""

    probability: float = 0.5
    """Share of the global crops that are masked at all, at steps that compare masked patches."""
    ratio: tuple[float, float] = (0.1, 0.5)
    """Least and greatest share of hidden patches in a masked crop."""
    roll: bool = False
    """Shift each mask cyclically, so that blocks reach the border as often as the centre."""


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW and its schedule."""

    lr: float = 1e-3
    """Learning rate after the warm-up."""
    lr_scaling: ScalingRule = "none"
    """Multiply `lr` and `lr_end` by a factor of the batch: 4 sqrt(batch / 1024) (published), or batch / 256."""
    warmup: int = 500
    """Steps from 0 to `lr`."""
    schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up: `lr` for as long as one likes, or half a cosine down to `lr_end` at the end of the run."""
    lr_end: float = 0.0
    cooldown: int = 0
    """Steps at the end of the run over which the learning rate falls to `lr_end`."""
    cosine_extra: float = 0.0
    """Share by which all cosines are laid beyond the run and cut off at its end (published: schedule_trunc_extra)."""
    weight_decay: float = 0.04
    weight_decay_schedule: Literal["constant", "cosine", "linear"] = "constant"
    """Over the whole run: `weight_decay`, or from it to `weight_decay_end` at the end."""
    weight_decay_end: float = 0.4
    published_decay: bool = False
    """Decay the class, register and mask tokens too, as the published code does."""
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
    """Reached at the end of the run, if the run has an end."""
    momentum_schedule: Literal["cosine", "linear"] = "cosine"
    """The way from `momentum` to `momentum_end`."""


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
    """GiB of decoded pictures kept in memory; larger sets are decoded as they come. Never more than half of
    what is free."""


@dataclass(frozen=True)
class Stage:
    """A part of the run with crops of its own size: small crops first learn more in the same time."""

    steps: int
    global_size: int
    local_size: int


_BOUNDS: Final[Mapping[str, tuple[float, float]]] = {
    "drop_path": (0, 0.99),
    "layer_scale": (1e-8, 10),
    "masks.probability": (0, 1),
    "masks.ratio": (0, 1),
    "dinov3.prototypes": (2, 2**24),
    "dinov3.patch_prototypes": (2, 2**24),
    "dinov3.hidden": (1, 2**16),
    "dinov3.bottleneck": (2, 2**16),
    "coding_rate.hidden": (1, 2**16),
    "coding_rate.projection": (2, 2**16),
    "optimizer.lr": (1e-12, 10),
    "optimizer.lr_end": (0, 10),
    "optimizer.warmup": (0, math.inf),
    "optimizer.cooldown": (0, math.inf),
    "optimizer.cosine_extra": (0, 10),
    "optimizer.weight_decay": (0, 10),
    "optimizer.weight_decay_end": (0, 10),
    "optimizer.beta1": (0, 0.9999),
    "optimizer.beta2": (0, 0.999999),
    "optimizer.layer_decay": (0.01, 1),
    "optimizer.patch_embed_multiplier": (0, 10),
    "optimizer.clip": (1e-6, math.inf),
    "optimizer.freeze_last_layer": (0, math.inf),
    "teacher.momentum": (0, 0.99999),
    "teacher.momentum_end": (0, 1),
    "run.batch": (2, 1_000_000),
    "run.steps": (0, math.inf),
    "run.seed": (0, 2**63 - 1),
    "run.picture_side": (16, 4096),
    "run.save_every": (1, math.inf),
    "run.probe_every": (0, math.inf),
    "run.log_every": (1, math.inf),
    "run.memory_limit": (0, math.inf),
}
"""Least and greatest value; of a pair, both, in ascending order."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run, except the pictures."""

    network: str = "dinokit_vitt16"
    drop_path: float = 0.0
    layer_scale: float = 0.1
    """Initial factor of the residual branches of random weights (published: 1e-5, for far longer runs)."""
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
        for size in self.crop_sizes():
            if size % patch or size < patch:
                raise UserError(f"a crop of {size} px does not fit patches of {patch} px", "give multiples of them")
        for name, (least, most) in _BOUNDS.items():
            value = self.value(name)
            values = value if isinstance(value, tuple) else (value,)
            if not all(least <= v <= most for v in values) or tuple(sorted(values)) != values:
                bound = f"at least {least}" if most == math.inf else f"{least} to {most}"
                raise UserError(f"{name} = {value} is out of bounds", f"give {bound}")
        if self.dinov3.koleo_neighbours >= self.run.batch:
            raise UserError("dinov3.koleo_neighbours must be less than run.batch", "1 is usual")
        for stage in self.stages:
            replace(self.crops, global_size=stage.global_size, local_size=stage.local_size)  # is checked
            if stage.steps < 1:
                raise UserError("a stage has no steps", "give each stage 1 step or more")

    def crop_sizes(self) -> set[int]:
        """Sides of all crops of all stages, in pixels."""
        parts: list[Stage | CropSettings] = [*self.stages, self.crops]
        return {side for part in parts for side in (part.global_size, part.local_size)}

    def value(self, name: str) -> Any:
        """The setting of a full name, such as `optimizer.lr`."""
        return reduce(getattr, name.split("."), self)

    def check_length(self) -> None:
        """Raises `UserError` where the parts of the run do not fit into its steps."""
        steps, settings = self.run.steps, self.optimizer
        ends = {
            "optimizer.cooldown": settings.cooldown > 0,
            "the cosine schedule": settings.schedule == "cosine",
            "optimizer.weight_decay_schedule": settings.weight_decay_schedule != "constant",
        }
        for name, needed in ends.items():
            if needed and not steps:
                raise UserError(f"{name} needs an end of the run", "set run.steps too")
        if (settings.cooldown or settings.schedule == "cosine") and settings.warmup + settings.cooldown > steps:
            raise UserError(
                f"a warm-up of {settings.warmup} and a cool-down of {settings.cooldown} steps do not fit into {steps}",
                "lower optimizer.warmup or optimizer.cooldown, or raise run.steps",
            )

    @property
    def peak_lr(self) -> float:
        """Learning rate after the warm-up, scaled for the batch."""
        return self.optimizer.lr * batch_size_factor(self.optimizer.lr_scaling, self.run.batch)

    def schedules(self) -> Schedules:
        """What changes over the run. Without an end, that is only what warms up."""
        s, teacher, prototypes, steps = self.optimizer, self.teacher, self.dinov3, self.run.steps
        lr_end = s.lr_end * batch_size_factor(s.lr_scaling, self.run.batch)
        # the first step is the first of the warm-up, since one at 0 would do nothing: hence 1 earlier
        lr = Ramp(0.0).to(self.peak_lr, since=-1, over=s.warmup)
        decay, momentum = Ramp(s.weight_decay), Ramp(teacher.momentum)
        if steps and s.schedule == "cosine":
            lr = lr.to(lr_end, since=s.warmup - 1, over=steps - 1 - s.warmup, curve="cosine", extra=s.cosine_extra)
        if steps and s.cooldown:
            lr = lr.to(lr_end, since=steps - s.cooldown - 1, over=s.cooldown)
        if steps and s.weight_decay_schedule != "constant":
            decay = decay.to(s.weight_decay_end, 0, steps, s.weight_decay_schedule, s.cosine_extra)
        if steps:
            momentum = momentum.to(teacher.momentum_end, 0, steps, teacher.momentum_schedule, s.cosine_extra)
        temperature = Ramp(prototypes.teacher_temperature).to(
            prototypes.teacher_temperature_end, since=0, over=prototypes.teacher_temperature_warmup
        )
        return Schedules(lr, replace(lr, frozen=s.freeze_last_layer), decay, momentum, temperature)

    def build_objective(self) -> Objective:
        """The objective that `objective` names, with its settings."""
        if self.objective == "dinov3":
            return Dinov3Objective(self.dinov3)
        return CodingRateObjective(self.coding_rate)

    def steps_left(self, step: int) -> float:
        """Steps from `step` to the end, each counted as so many of the latest size as its crops have more tokens."""
        latest, left, start = self._tokens(self.crops_at(max(step - 1, 0))), 0.0, 0
        for stage in (*self.stages, Stage(self.run.steps, self.crops.global_size, self.crops.local_size)):
            end = min(start + stage.steps, self.run.steps)
            left += max(end - max(start, step), 0) * self._tokens(stage) / latest
            start = end
        return left

    def _tokens(self, crops: Stage | CropSettings) -> int:
        """Of one picture: the student learns from all crops (three passes), the teacher looks at the global ones."""
        patch = spec_of(self.network).patch_size
        large, small = ((side // patch) ** 2 + 1 for side in (crops.global_size, crops.local_size))
        return 8 * large + 3 * self.crops.local_number * small

    def crops_at(self, step: int) -> CropSettings:
        """The crop settings at `step`, by the stages."""
        end = 0
        for stage in self.stages:
            end += stage.steps
            if step < end:
                return replace(self.crops, global_size=stage.global_size, local_size=stage.local_size)
        return self.crops
