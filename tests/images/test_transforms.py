"""The transforms of published evaluations equal what torchvision and transformers give (tests/golden/preprocess)."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers_golden import load_golden
from torch import Tensor

from dinokit.errors import UserError
from dinokit.images.normalize import IMAGENET, SATELLITE
from dinokit.images.read import Picture
from dinokit.images.transforms import classification, larger_side, square, square_in_floats

GOLDEN, _ = load_golden("preprocess")
PICTURE: Picture = GOLDEN["image_uint8"].permute(1, 2, 0).contiguous().numpy()

CASES: dict[str, Callable[[Any], Tensor]] = {
    "square32_lvd": lambda picture: square(picture, IMAGENET, 32),
    "square32_sat": lambda picture: square(picture, SATELLITE, 32),
    "classification_resize36_crop32": lambda picture: classification(picture, IMAGENET, 36, 32),
    "eval_large_side48_nocrop": lambda picture: larger_side(picture, IMAGENET, 48),
    "eval_square40_nocrop": lambda picture: square(picture, IMAGENET, 40, "bicubic"),
    "transformers_32": lambda picture: square_in_floats(picture, IMAGENET, 32),
}


@pytest.mark.parametrize("name", CASES)
def test_a_picture_becomes_the_published_tensor(name: str) -> None:
    torch.testing.assert_close(CASES[name](PICTURE), GOLDEN[name], atol=1e-5, rtol=0)


def test_no_golden_transform_is_left_out() -> None:
    assert GOLDEN.keys() - {"image_uint8"} == CASES.keys()


def test_impossible_sizes_are_named() -> None:
    with pytest.raises(UserError, match="a crop of 300 does not fit into 256"):
        classification(PICTURE, IMAGENET, crop=300)
    with pytest.raises(UserError, match="size is"):
        square(PICTURE, IMAGENET, 0)
