"""Which number format a device computes in, and why."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch

from dinokit.errors import UserError

Precision = str
"""`auto`, `fp32` or `bf16`."""


def choose_device(device: str) -> torch.device:
    """`auto` is CUDA, then Apple's MPS, then the CPU. An unavailable device is a `UserError`."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    try:
        found = torch.device(device)
    except RuntimeError:
        found = torch.device("meta")
    if found.type not in counts:
        raise UserError(f"device {device!r} is unknown", "give auto, cpu, cuda or mps")
    if (found.index or 0) >= counts[found.type]:
        raise UserError(f"this machine has no {device} device", "give --device cpu")
    return found


@lru_cache
def _cpu_has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 natively (AVX-512 BF16, AMX, or Arm's BF16)."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return any(flag in flags for flag in ("avx512_bf16", "amx_bf16", " bf16"))


def has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is native and therefore faster than float32 on `device`."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and _cpu_has_bfloat16()


def choose_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where it is native, else float32."""
    choices = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if precision == "auto":
        return torch.bfloat16 if has_bfloat16(device) else torch.float32
    if precision not in choices:
        raise UserError(f"precision {precision!r} is unknown", "give auto, fp32 or bf16")
    return choices[precision]
