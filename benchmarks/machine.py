"""The matrix rate that this machine reaches: large linear products, the best of PyTorch's public call and oneDNN.

Speeds of networks are quoted as a share of it, so that they can be compared between machines. It is what was
measured in the same minute, not the data sheet's figure: on a busy machine both go down together.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dinokit.inference.linear import Product, pack

_SHAPES = ((2048, 384, 1536), (2048, 1536, 384), (2048, 1024, 1024), (1024, 1024, 4096))
"""Rows, inputs and outputs of the products that are tried."""
_GPU_SHAPES = ((16384, 4096, 4096), (8192, 8192, 8192))
_CPU = torch.device("cpu")


def describe() -> dict[str, Any]:
    """Processor, threads, versions and load of this machine."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load": load if load is None else round(load, 1),
    }


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine()
    facts = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    names = {key.strip(): value.strip() for key, value in facts.items()}
    flags = [flag for flag in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if flag in names.get("flags", "").split()]
    return f"{names.get('model name', platform.machine())} ({', '.join(flags[:2])})"


def _packed(product: Product) -> Product | None:
    try:
        return pack(product)
    except (AttributeError, RuntimeError, NotImplementedError):
        return None


def linear_peak(dtype: torch.dtype, repeats: int = 8, device: torch.device = _CPU) -> float:
    """The best rate of a linear product in `dtype`, in TFLOP/s."""
    best = 0.0
    for rows, inputs, outputs in _SHAPES if device.type == "cpu" else _GPU_SHAPES:
        x = torch.randn(rows, inputs).to(device, dtype)
        public = Product(torch.randn(outputs, inputs).to(device, dtype), torch.randn(outputs).to(device, dtype))
        for product in (public, _packed(public) if device.type == "cpu" else None):
            if product is not None:
                seconds = min(_seconds(partial(product, x)) for _ in range(repeats))
                best = max(best, 2e-12 * rows * inputs * outputs / seconds)
    return best


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def interleaved(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every run in every round; each round runs all, after one round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            taken = _seconds(run)
            if number:
                seconds[name].append(taken)
    return seconds


def median_ratio(slow: list[float], fast: list[float]) -> float:
    """How many times faster `fast` is: the median of the rounds' ratios, so that slow minutes cancel."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))
