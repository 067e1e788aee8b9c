"""Changed pictures and their maps stay together."""

import numpy as np
import torch
from helpers_pictures import photo

from dinokit.heads.augment import Augmentation


def test_a_map_shows_the_same_place_as_its_picture() -> None:
    picture = np.asarray(photo(96, 64))
    value = picture.sum(axis=2, dtype=np.int64)
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        changed, found = Augmentation(light=0.0).draw(picture, value, generator, -1)
        assert changed.shape[:2] == found.shape
        assert 0.25 <= found.size / value.size <= 1.0
        assert np.array_equal(changed.sum(axis=2, dtype=np.int64), found)


def test_mirrors_and_light_occur() -> None:
    picture = np.asarray(photo(96, 64))
    whole, value = Augmentation(area=(1.0, 1.0)), picture[..., 0]
    drawn = [whole.draw(picture, value, torch.Generator().manual_seed(seed), -1)[0] for seed in range(20)]
    nearer = [np.abs(d - picture.mean()).mean() for d in drawn]
    assert np.ptp(nearer) > 1
    still = Augmentation(area=(1.0, 1.0), light=0.0)
    kinds = {still.draw(picture, value, torch.Generator().manual_seed(seed), -1)[0].tobytes() for seed in range(20)}
    assert kinds == {picture.tobytes(), np.ascontiguousarray(picture[:, ::-1]).tobytes()}


def test_a_crop_shows_something_that_is_known() -> None:
    picture = np.asarray(photo(96, 64))
    value = np.full(picture.shape[:2], 255)
    value[:8, :8] = 1
    for seed in range(30):
        found = Augmentation().draw(picture, value, torch.Generator().manual_seed(seed), 255)[1]
        assert (found == 1).any()
