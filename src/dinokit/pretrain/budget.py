"""The one dial: from the pictures, the machine and a time to a whole recipe, by stated rules.

The speed of each stage is measured by a few real steps on this machine; everything else follows from it. The rules
rest on runs kept under experiments/.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from dinokit.backbones.catalog import spec_of
from dinokit.errors import UserError
from dinokit.pretrain.coding_rate_objective import CodingRateSettings
from dinokit.pretrain.crops import CropSettings
from dinokit.pretrain.recipe import Recipe, Stage
from dinokit.pretrain.recipe_file import recipe_from_dict

STAGES = ((0.45, 64, 32), (0.35, 96, 48), (0.2, 128, 64))
"""Share of the time, global and local crop: small crops learn most in a minute, larger ones make the maps.
The learning rate falls to zero over the last."""
LEAST_STEPS = 100
SHORT_STEPS = 3000
"""Runs that are shorter than this with the first stage's crops stay with these, and see more pictures."""
BRIEF_STEPS = 1000
"""Runs shorter than this leave the patch losses out, which would hold the class token back."""
CPU_NETWORK = "dinokit_vitt16"
GPU_NETWORK = "dinov3_vits16"

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(text: str) -> float:
    """Seconds of `90s`, `30m`, `2h`, `1.5h` or `1d`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip().lower())
    if not found or float(found[1]) <= 0:
        raise UserError(f"budget {text!r} is no time", "write something like 30m, 2h or 1d")
    return float(found[1]) * _UNITS[found[2]]


@dataclass(frozen=True)
class Speed:
    """What was measured of a recipe on this machine."""

    pictures_per_second: float
    probe_seconds: float = 0.0
    """Of one kNN probe; 0 without labels."""


def derive_recipe(
    chosen: Mapping[str, Any],
    pictures: int,
    seconds: float,
    device: torch.device,
    measure: Callable[[Recipe], Speed],
) -> Recipe:
    """The recipe for `pictures` pictures and `seconds` of training on `device`.

    chosen: settings of a person, by name; the rules build on them and never change them. Crops of a chosen size are
    used from the start to the end. measure: the speed of a recipe, by running it. Raises `UserError` if there is no
    time for 100 steps, or if the length is chosen too.
    """
    check_chosen(chosen)
    recipe = recipe_from_dict(chosen, _suit_machine(recipe_from_dict(chosen), pictures, device, chosen))
    shares = [share for share, _, _ in STAGES]
    crops = [_crop_sizes(recipe.crops, large, small, chosen, recipe.network) for _, large, small in STAGES]
    speeds = [measure(replace(recipe, crops=crops[0]))]
    first_steps = _steps(seconds, speeds[0], recipe)
    _refuse_too_short(seconds, first_steps)  # later stages are slower
    short = first_steps < SHORT_STEPS
    if short:
        crops, speeds = crops[:1] * len(STAGES), speeds * len(STAGES)
    else:
        speeds += [measure(replace(recipe, crops=later)) for later in crops[1:]]
    probes = _probes(seconds, speeds)
    training = seconds - probes * speeds[-1].probe_seconds
    stages = [
        Stage(_steps(share * training, speed, recipe), sizes.global_size, sizes.local_size)
        for share, speed, sizes in zip(shares, speeds, crops, strict=True)
    ]
    _refuse_too_short(seconds, sum(stage.steps for stage in stages))
    return recipe_from_dict(chosen, _suit_length(recipe, stages, pictures, probes, short))


def check_chosen(chosen: Mapping[str, Any]) -> None:
    """Raises `UserError` if settings leave nothing to derive."""
    if "stages" in chosen or "steps" in chosen.get("run", {}):
        raise UserError("--budget derives run.steps and stages itself", "leave out the budget, or what sets them")


def _steps(seconds: float, speed: Speed, recipe: Recipe) -> int:
    """How many steps there is time for, one at least."""
    return max(round(seconds * speed.pictures_per_second / recipe.run.batch), 1)


def _refuse_too_short(seconds: float, steps: int) -> None:
    """Raises `UserError` where so many steps in so many seconds are too few."""
    if steps < LEAST_STEPS:
        needed = 1.1 * LEAST_STEPS * seconds / steps  # the speed is not the same each time
        hint = f"give at least {math.ceil(needed / 60)}m here" if needed >= 60 else f"give {math.ceil(needed)}s or more"
        raise UserError(f"the budget allows fewer than {LEAST_STEPS} steps, which learn nothing", hint)


def _crop_sizes(base: CropSettings, large: int, small: int, chosen: Mapping[str, Any], network: str) -> CropSettings:
    """Global and local size of a stage: the rule's, or what was chosen, and what suits it."""
    patch, sizes = spec_of(network).patch_size, chosen.get("crops", {})
    if "global_size" in sizes:
        large = sizes["global_size"]
        small = max(large // 2 // patch * patch, patch)
    if "local_size" in sizes:
        small = sizes["local_size"]
        large = large if "global_size" in sizes else max(large, 2 * small)
    return replace(base, global_size=large, local_size=small)


def _probes(seconds: float, speeds: Sequence[Speed]) -> int:
    """How many kNN probes: twenty, or as many as take a twentieth of the time, but one at least."""
    cost = speeds[-1].probe_seconds
    return 20 if cost == 0 else min(20, max(1, int(0.05 * seconds / cost)))


def _suit_machine(base: Recipe, pictures: int, device: torch.device, chosen: Mapping[str, Any]) -> Recipe:
    """Network, batch and learning rate: a larger network and batch on a GPU, the square-root rule for the rate.

    Where a rule for the rate is chosen, it takes the place of ours.
    """
    on_gpu = device.type == "cuda"
    network = base.network if "network" in chosen else GPU_NETWORK if on_gpu else CPU_NETWORK
    batch = base.run.batch if "batch" in chosen.get("run", {}) else 256 if on_gpu and pictures >= 20_000 else 64
    lr = 1e-3 * (batch / 64) ** 0.5 if base.optimizer.lr_scaling == "none" else base.optimizer.lr
    return replace(
        base,
        network=network,
        run=replace(base.run, batch=batch),
        optimizer=replace(base.optimizer, lr=lr),
    )


def _suit_length(recipe: Recipe, stages: Sequence[Stage], pictures: int, probes: int, short: bool) -> Recipe:
    """What follows from the number of steps: warm-up, cool-down, teacher, losses, how often to save and probe."""
    steps, last = sum(stage.steps for stage in stages), stages[-1]
    prototypes, (start, end) = _prototypes(pictures), _momentum(steps, short)
    sizes = {(stage.global_size, stage.local_size) for stage in stages}
    return replace(
        recipe,
        stages=tuple(stages[:-1]) if len(sizes) > 1 else (),
        crops=replace(recipe.crops, global_size=last.global_size, local_size=last.local_size),
        optimizer=replace(recipe.optimizer, warmup=min(500, max(steps // 10, 100), steps // 2), cooldown=last.steps),
        teacher=replace(recipe.teacher, momentum=start, momentum_end=end),
        dinov3=replace(recipe.dinov3, prototypes=prototypes, patch_prototypes=prototypes),
        coding_rate=_suit_coding_rate(recipe.coding_rate, steps, stages[0].steps),
        run=replace(
            recipe.run,
            steps=steps,
            save_every=max(steps // 20, 50),
            probe_every=max(steps // probes, 1),
        ),
    )


def _suit_coding_rate(settings: CodingRateSettings, steps: int, first: int) -> CodingRateSettings:
    if steps < BRIEF_STEPS:
        return replace(settings, patch_weight=0.0, match_weight=0.0)
    return replace(settings, patch_after=first)


def _momentum(steps: int, short: bool) -> tuple[float, float]:
    """The teacher averages over an eighth of a short run, at most 167 steps; over 250 of others, 1,000 at their end."""
    brief = min(max(1 - 8 / steps, 0.98), 0.994)
    return (brief, brief) if short else (0.996, 0.999)


def _prototypes(pictures: int) -> int:
    """A power of two near a quarter of the pictures, within 512 and 16,384."""
    return min(max(1 << max(pictures // 4, 1).bit_length() - 1, 512), 16_384)


def time_steps(step: Callable[[], object], batch: int, device: torch.device, count: int = 4) -> float:
    """Pictures per second of `step`, the median of `count` calls after two that warm up."""

    def timed() -> float:
        started = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    seconds = [timed() for _ in range(count + 2)][2:]
    return batch / sorted(seconds)[count // 2]
