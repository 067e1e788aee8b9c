"""Frozen linear products, through PyTorch's public call or through oneDNN with weights packed once.

The packed form fuses GELU or the residual into the product, and on some processors (AMD) it is the faster way to
multiply in float32 too. Its operators are private to PyTorch, so they appear in two functions only and are used
where a trial shows that they exist, agree with the public call and are not slower.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from dinokit.inference.few_sizes import FewSizes
from dinokit.inference.side_by_side import alone

Key = TypeVar("Key", bound=Hashable)

ROWS = 4096
"""Rows that go through a product at a time."""

_last_rows = FewSizes()


@dataclass(frozen=True)
class Product:
    """x Wᵀ + b, then GELU if `gelu`, then added to `residual` if one is given (which may be overwritten)."""

    weight: Tensor
    bias: Tensor
    gelu: bool = False
    packed: bool = False
    """`weight` is in oneDNN's own layout."""

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if self.packed:
            return _packed_product(self, x, residual)
        out = F.linear(x, self.weight, self.bias)
        out = F.gelu(out) if self.gelu else out
        return out if residual is None else residual.add_(out)


def _packed_product(product: Product, x: Tensor, residual: Tensor | None) -> Tensor:
    operator = torch.ops.mkldnn._linear_pointwise
    out: Tensor
    if residual is not None:
        out = operator.binary(x, residual, product.weight, product.bias, "add")
    elif product.gelu:
        out = operator(x, product.weight, product.bias, "gelu", [], "none")  # "none": the exact GELU
    else:
        out = operator(x, product.weight, product.bias, "none", [], "")
    return out


def pad_rows(x: Tensor) -> Tensor:
    """Rows [N, D], with zeros after them so that the last block of `in_blocks` has one of few sizes."""
    last = len(x) % ROWS
    padding = _last_rows.fit(last) - last if x.device.type == "cpu" and last else 0
    return F.pad(x, (0, 0, 0, padding)) if padding else x


def in_blocks(work: Callable[..., Tensor], *rows: Tensor) -> Tensor:
    """`work` on rows [N, D], padded by `pad_rows`, block by block -> [N, E]."""
    if len(rows[0]) <= ROWS:
        return work(*rows)
    return torch.cat([work(*blocks) for blocks in zip(*(each.split(ROWS) for each in rows), strict=True)])


def pack(product: Product) -> Product:
    """The same product with packed weights. Raises whatever PyTorch raises where it cannot."""
    weight = torch.ops.mkldnn._reorder_linear_weight(product.weight.contiguous())
    return Product(weight, product.bias, product.gelu, packed=True)


@torch.no_grad()
def packing_pays(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether packed products exist on this machine, agree with the public ones and are not slower."""
    return device.type == "cpu" and _packing_pays(dtype)


@lru_cache
def _packing_pays(dtype: torch.dtype) -> bool:
    """One trial a process and number format: the up projection of a ViT-S."""
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*s, generator=generator) for s in ((1024, 384), (1536, 384), (1536,)))
    public = Product((weight / 20).to(dtype), bias.to(dtype), gelu=True)
    x = x.to(dtype)
    try:
        packed = pack(public)
        difference = (packed(x) - public(x)).abs().max().item()
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    agree = difference <= (1e-5 if dtype == torch.float32 else 0.05)  # values reach about 6
    return agree and fastest({True: lambda: packed(x), False: lambda: public(x)})


def fastest(candidates: Mapping[Key, Callable[[], object]], rounds: int = 8, seconds: float = 0.5) -> Key:
    """The key of the candidate that needs least processor time, by each one's best of interleaved rounds.

    Measured on one thread in that thread's own time, so that other programs on the machine hardly disturb it.
    Another than the first must be 5 % faster to win. No new round starts after `seconds`.
    """
    best = alone(lambda: _best_times(candidates, rounds, seconds))
    first = next(iter(best))
    winner = min(best, key=lambda key: best[key])
    return winner if best[winner] < 0.95 * best[first] else first


@torch.no_grad()  # which a thread has to say for itself
def _best_times(candidates: Mapping[Key, Callable[[], object]], rounds: int, seconds: float) -> dict[Key, float]:
    best, started = dict.fromkeys(candidates, float("inf")), time.thread_time()
    for number in range(rounds):
        if number and time.thread_time() - started > seconds:
            break
        for key, run in candidates.items():
            before = time.thread_time()
            run()
            best[key] = min(best[key], time.thread_time() - before)
    return best
