"""The readable network under `torch.compile`: for GPUs, and for processors where its kernels suit better.

The first call of each shape compiles, which takes from seconds to a minute. `prepared.py` is the default.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dinokit.backbones.features import Features, Grid
from dinokit.backbones.network import Network
from dinokit.errors import UserError, is_out_of_memory


class Compiled:
    """Calls give `Features` in float32, with the grid, of normalised pictures [B, C, H, W]."""

    def __init__(self, network: Network, device: torch.device, dtype: torch.dtype) -> None:
        self.spec, self.device, self.dtype = network.spec, device, dtype
        self.network = deepcopy(network).eval().requires_grad_(False).to(device, dtype)
        self._intermediate: Any = torch.compile(self.network.intermediate)

    def __call__(self, pictures: Tensor) -> Features:
        return self.intermediate(pictures, [-1], norm=True)[0]

    @torch.no_grad()
    def intermediate(self, pictures: Tensor, layers: Sequence[int], norm: bool) -> list[Features]:
        """Features after the given blocks or stages, in the order asked for, through the final norm or as they are.

        Raises `UserError` where it cannot be compiled or run.
        """
        height, width = pictures.shape[2:]
        try:
            with torch.autocast(self.device.type, enabled=False):
                found = self._intermediate(pictures.to(self.device, self.dtype), tuple(layers), norm)
        except Exception as problem:  # compilers fail in many ways
            if is_out_of_memory(problem):
                raise
            first = next(iter(str(problem).strip().splitlines()), "") or type(problem).__name__
            what = f"the network cannot be compiled or run here ({first[:120]})"
            raise UserError(what, "use the runtime torch") from None
        return [self._place(features, height, width) for features in found]

    @staticmethod
    def _place(features: Features, height: int, width: int) -> Features:
        batch, rows, cols = features.patches.shape[:3]
        return replace(features.to(torch.float32), grid=Grid(rows, cols, ((height, width),) * batch))
