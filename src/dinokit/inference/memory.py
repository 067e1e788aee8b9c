"""How much memory a pass through a network takes, about, and how much there is."""

from __future__ import annotations

from pathlib import Path

import torch

from dinokit.backbones.network import Spec
from dinokit.backbones.vit import ViTSpec

SHARE = 0.7
"""Of the free memory that a pass may plan to take."""
_BLOCKS = 512 << 20
"""Bytes of what is held for blocks of rows and scores only, at any size."""
_VIT_COPIES, _CONVNEXT_COPIES = 12, 6
"""Copies of all tokens, or of the cells of the first stage, that are alive at the same time."""


def pass_bytes(spec: Spec, pixels: int, dtype: torch.dtype) -> int:
    """Bytes that pictures of so many pixels in all take on their way through the prepared network, about."""
    if isinstance(spec, ViTSpec):
        numbers = pixels // spec.patch_size**2 * spec.width
        working = _VIT_COPIES * numbers
    else:
        numbers = pixels // spec.patch_size**2 * spec.width
        working = _CONVNEXT_COPIES * pixels // 16 * spec.widths[0]
    normalised = pixels * spec.in_channels
    return (working + 2 * normalised) * dtype.itemsize + 2 * numbers * 4 + _BLOCKS


def fits(spec: Spec, pixels: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether so many pixels can go through the network in one pass."""
    free = free_bytes(device)
    return free is None or pass_bytes(spec, pixels, dtype) <= SHARE * free


def free_bytes(device: torch.device) -> int | None:
    """Bytes that can still be had on a device; None where nobody tells."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    limits = [limit for limit in (_available(), _left_in_group()) if limit is not None]
    return min(limits, default=None)


def _available() -> int | None:
    """What Linux would give without swapping."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), None)


def _left_in_group(group: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What the limit of a container leaves."""
    try:
        most, used, kinds = ((group / name).read_text() for name in ("memory.max", "memory.current", "memory.stat"))
    except OSError:
        return None
    cached = next((int(line.split()[1]) for line in kinds.splitlines() if line.startswith("inactive_file ")), 0)
    return int(most) - int(used) + cached if most.strip().isdecimal() else None
