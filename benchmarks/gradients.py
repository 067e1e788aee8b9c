"""The classical description of a whole picture: oriented gradients and colours (Dalal and Triggs 2005)."""

import cv2
import numpy as np
from numpy.typing import NDArray

from dinokit.images.geometry import resize, to_tensor
from dinokit.images.read import Picture

SIDE = 128
_RANGES = [0, 180, 0, 256, 0, 256]


def describe(picture: Picture) -> NDArray[np.float32]:
    """Histograms of oriented gradients of a picture squashed to 128 x 128, and of its colours (HSV): [1892]."""
    cell = SIDE // 8
    gradients = cv2.HOGDescriptor((SIDE, SIDE), (2 * cell, 2 * cell), (cell, cell), (cell, cell), 9)
    square = resize(to_tensor(picture), (SIDE, SIDE))[0]
    pixels = square.permute(1, 2, 0).contiguous().numpy()
    colours = cv2.calcHist([cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)], [0, 1, 2], None, [8, 4, 4], _RANGES).ravel()
    found = np.concatenate([np.ravel(gradients.compute(pixels)), np.sqrt(colours / colours.sum())])
    return found.astype(np.float32)
