"""The one dial: from the pictures, the machine and a time to a whole recipe, by stated rules.

The speed of each stage is measured by a few real steps on this machine; everything else follows from it. The rules
rest on runs kept under experiments/.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dinokit.errors import UserError
from dinokit.pretrain.recipe import Recipe, Stage

STAGES = ((0.45, 64, 32), (0.35, 96, 48), (0.2, 128, 64))
"""Share of the time, global and local crop: small crops learn most in a minute, larger ones make the maps.
The learning rate falls to zero over the last."""
LEAST_STEPS = 100
CPU_NETWORK = "dinokit_vitt16"
GPU_NETWORK = "dinov3_vits16"

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(text: str) -> float:
    """Seconds of `90s`, `30m`, `2h`, `1.5h` or `1d`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip().lower())
    if not found or float(found[1]) <= 0:
        raise UserError(f"budget {text!r} is no time", "write something like 30m, 2h or 1d")
    return float(found[1]) * _UNITS[found[2]]


def derive_recipe(
    base: Recipe,
    pictures: int,
    seconds: float,
    device: torch.device,
    measure: Callable[[Recipe], float],
    settle: Callable[[Recipe], Recipe] = lambda recipe: recipe,
) -> Recipe:
    """The recipe for `pictures` pictures and `seconds` of training on `device`.

    measure: pictures per second of a recipe, by running it; settle: puts back what a person has set, which the rules
    then build on. Raises `UserError` if there is no time for 100 steps.
    """
    recipe = settle(_suit_machine(base, pictures, device))
    stages = []
    for share, global_size, local_size in STAGES:
        crops = replace(recipe.crops, global_size=global_size, local_size=local_size)
        rate = measure(settle(replace(recipe, crops=crops)))
        stages.append(Stage(max(round(share * seconds * rate / recipe.run.batch), 1), global_size, local_size))
    if sum(stage.steps for stage in stages) < LEAST_STEPS:
        raise UserError(f"the budget allows fewer than {LEAST_STEPS} steps", "give more time: that learns nothing")
    return settle(_suit_length(recipe, stages, pictures))


def _suit_machine(base: Recipe, pictures: int, device: torch.device) -> Recipe:
    """Network, batch and learning rate: a larger network and batch on a GPU, the square-root rule for the rate."""
    on_gpu = device.type == "cuda"
    default = GPU_NETWORK if on_gpu else CPU_NETWORK
    batch = 256 if on_gpu and pictures >= 20_000 else 64
    return replace(
        base,
        network=base.network if base.network != Recipe().network else default,
        run=replace(base.run, batch=batch),
        optimizer=replace(base.optimizer, lr=1e-3 * (batch / 64) ** 0.5),
    )


def _suit_length(recipe: Recipe, stages: Sequence[Stage], pictures: int) -> Recipe:
    """What follows from the number of steps: warm-up, cool-down, teacher, losses, how often to save and probe."""
    steps, last = sum(stage.steps for stage in stages), stages[-1]
    prototypes = _prototypes(pictures)
    return replace(
        recipe,
        stages=tuple(stages[:-1]),
        crops=replace(recipe.crops, global_size=last.global_size, local_size=last.local_size),
        optimizer=replace(recipe.optimizer, warmup=min(500, max(steps // 20, 10)), cooldown=last.steps),
        teacher=replace(recipe.teacher, momentum=_momentum(steps), momentum_end=0.999),
        dinov3=replace(recipe.dinov3, prototypes=prototypes, patch_prototypes=prototypes),
        coding_rate=replace(recipe.coding_rate, patch_after=stages[0].steps),
        run=replace(recipe.run, steps=steps, save_every=max(steps // 20, 50), probe_every=_probe_period(steps, recipe)),
    )


def _momentum(steps: int) -> float:
    """The teacher averages over about a fiftieth of the run, within what is usual."""
    return min(max(1 - 50 / steps, 0.98), 0.996)


def _prototypes(pictures: int) -> int:
    """A power of two near a quarter of the pictures, within 512 and 16,384."""
    return min(max(1 << round(pictures / 4).bit_length() - 1, 512), 16_384)


def _probe_period(steps: int, recipe: Recipe) -> int:
    """About twenty probes a run, on logged steps."""
    period = recipe.run.log_every
    return max(steps // 20 // period, 1) * period


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


def noise_pictures(count: int, side: int, seed: int = 0) -> Tensor:
    """Pictures of noise, uint8 [count, 3, side, side], to measure speed with."""
    return torch.randint(0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(seed)).byte()
