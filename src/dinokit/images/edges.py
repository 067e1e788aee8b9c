"""From maps on a patch grid to maps of pixels, with the edges that the pixels show.

A map is interpolated first. Then, if asked for, it is smoothed everywhere but across edges of the picture, by
OpenCV's filter of Min et al. 2014 ("Fast global image smoothing based on weighted least squares").
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dinokit.backbones.features import Grid
from dinokit.errors import UserError
from dinokit.images.cells import PixelMap

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]

_STRENGTH = 0.5  # of the smoothing, in squared cells
_CONTRAST = 8.0  # differences of colour (of 255) that count as an edge


def to_pixels(values: Floats, grid: Grid) -> Floats:
    """A map [h, w] or [h, w, C] on the cells of a picture as one of its pixels, [H, W] or [H, W, C], linearly between.

    Beyond the centres of the outermost cells their values go on.
    """
    maps = torch.tensor(values).reshape(grid.rows, grid.cols, -1).permute(2, 0, 1)
    pixels = PixelMap(maps, grid.spans[0], *grid.sizes[0]).whole().permute(1, 2, 0)  # [H, W, C]
    return np.ascontiguousarray(pixels.reshape(*grid.sizes[0], *values.shape[2:]).numpy())


def refine(values: Floats, picture: Pixels, grid: Grid) -> Floats:
    """A map of pixels [H, W] smoothed along the edges of `picture` uint8 [H, W, 3], over about a cell of the grid.

    Raises `UserError` without the extra "edges".
    """
    filters = opencv().ximgproc
    cell = (grid.spans[0][0] / grid.rows) * (grid.spans[0][1] / grid.cols)  # pixels
    smooth = filters.fastGlobalSmootherFilter(np.ascontiguousarray(picture), values, _STRENGTH * cell, _CONTRAST)
    return np.asarray(smooth, dtype=np.float32)


def opencv() -> Any:
    """OpenCV with its contributed parts; `UserError` without the extra "edges"."""
    try:
        import cv2
        import cv2.ximgproc
    except ImportError:
        raise UserError(
            "refining edges needs OpenCV with its contributed parts", "pip install dinokit[edges]"
        ) from None
    return cv2
