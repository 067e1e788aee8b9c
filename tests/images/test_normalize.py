"""Normalisation: the textbook formula, in one multiply-add."""

import pytest
import torch

from dinokit.images.normalize import IMAGENET, SATELLITE, Statistics, normalize


@pytest.mark.parametrize("statistics", [IMAGENET, SATELLITE])
def test_normalising_is_the_textbook_formula(statistics: Statistics) -> None:
    pictures = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8)
    mean = torch.tensor(statistics.mean)[:, None, None]
    std = torch.tensor(statistics.std)[:, None, None]
    torch.testing.assert_close(normalize(pictures, statistics), (pictures / 255 - mean) / std)
    half = normalize(pictures, statistics, torch.bfloat16)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), (pictures / 255 - mean) / std, atol=0.03, rtol=0.02)
