"""Normalisation: the textbook formula, in one multiply-add."""

import pytest
import torch

from dinokit.errors import UserError
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


def test_any_number_of_channels_has_its_own_numbers() -> None:
    statistics = Statistics(mean=(0.1, 0.2, 0.3, 0.4, 2.0), std=(0.5, 0.6, 0.7, 0.8, 0.9))
    pictures = torch.randint(0, 256, (2, 5, 3, 4), dtype=torch.uint8)
    expected = (pictures / 255 - torch.tensor(statistics.mean)[:, None, None]) / torch.tensor(statistics.std)[
        :, None, None
    ]
    torch.testing.assert_close(normalize(pictures, statistics), expected)
    for other in (IMAGENET, Statistics((0.5,), (0.5,))):
        with pytest.raises(UserError, match="pictures of 5 channels meet statistics of"):
            normalize(pictures, other)


@pytest.mark.parametrize("statistics", [IMAGENET, SATELLITE])
def test_the_colour_of_padding_is_nearly_nothing_to_the_network(statistics: Statistics) -> None:
    padding = torch.tensor(statistics.grey, dtype=torch.uint8)[None, :, None, None]
    assert normalize(padding, statistics).abs().max() <= 0.5 / 255 / min(statistics.std)
