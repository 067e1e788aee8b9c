"""The fixed transforms of published evaluations, for figures that shall compare with theirs.

`backbone.encode` keeps whole pictures in their shape; these squash or crop them as the publications do. Each takes
a picture uint8 [H, W, C] (`images.read.read`) and the statistics of a model (`backbone.info.statistics`), and gives
what the model itself takes: `backbone(square(picture, statistics)[None])`. They equal torchvision's and transformers'
to 1e-6 where torch resizes uint8 natively (AVX2); elsewhere a value may differ by 1/255 before it is normalised.
"""

from typing import Literal

from torch import Tensor
from torch.nn.functional import interpolate

from dinokit.errors import UserError
from dinokit.images.geometry import to_tensor
from dinokit.images.normalize import Statistics, normalize, standardize
from dinokit.images.read import Picture

Mode = Literal["bilinear", "bicubic"]


def square(picture: Picture, statistics: Statistics, side: int = 256, mode: Mode = "bilinear") -> Tensor:
    """Squash to `side` x `side` -> float32 [C, side, side].

    The transform that the DINOv3 repository documents; its evaluations with `resize_square` take "bicubic".
    """
    return normalize(_resize(to_tensor(picture), (side, side), mode), statistics)[0]


def classification(picture: Picture, statistics: Statistics, resize: int = 256, crop: int = 224) -> Tensor:
    """Bring the shorter side to `resize`, bicubic, and cut the centre out -> float32 [C, crop, crop].

    The transform of the published kNN and linear classification. Raises `UserError` for a crop larger than `resize`.
    """
    if crop > resize:
        raise UserError(f"a crop of {crop} does not fit into {resize} pixels", "give a larger resize")
    height, width = picture.shape[:2]
    short = min(height, width)
    size = (resize * height // short, resize * width // short)  # torchvision cuts fractions off
    top, left = (round((side - crop) / 2) for side in size)
    resized = _resize(to_tensor(picture), size, "bicubic")
    return normalize(resized[..., top : top + crop, left : left + crop], statistics)[0]


def larger_side(picture: Picture, statistics: Statistics, side: int) -> Tensor:
    """Bring the longer side to `side`, bicubic -> float32 [C, h, w]; evaluations with `resize_large_side`.

    The shorter side need not be a multiple of the patch: cut or pad it before it goes into a network.
    """
    height, width = picture.shape[:2]
    long = max(height, width)
    size = (max(side * height // long, 1), max(side * width // long, 1))
    return normalize(_resize(to_tensor(picture), size, "bicubic"), statistics)[0]


def square_in_floats(picture: Picture, statistics: Statistics, side: int = 224) -> Tensor:
    """Scale by 1/255, then squash, bilinear -> float32 [C, side, side]; as transformers' `DINOv3ViTImageProcessor`."""
    return standardize(_resize(to_tensor(picture).float() / 255, (side, side), "bilinear"), statistics)[0]


def _resize(pictures: Tensor, size: tuple[int, int], mode: Mode) -> Tensor:
    if min(size) < 1:
        raise UserError(f"size is {size}", "give pixels above 0")
    return interpolate(pictures, size=size, mode=mode, antialias=True, align_corners=False)
