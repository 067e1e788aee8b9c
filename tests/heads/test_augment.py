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
        changed, found = Augmentation(light=0.0).draw(picture, value, generator)
        assert changed.shape[:2] == found.shape
        assert 0.25 <= found.size / value.size <= 1.0
        assert np.array_equal(changed.sum(axis=2, dtype=np.int64), found)


def test_mirrors_and_light_occur() -> None:
    picture = np.asarray(photo(96, 64))
    whole, value = Augmentation(area=(1.0, 1.0)), picture[..., 0]
    drawn = [whole.draw(picture, value, torch.Generator().manual_seed(seed))[0] for seed in range(20)]
    nearer = [np.abs(d - picture.mean()).mean() for d in drawn]
    assert np.ptp(nearer) > 1
    still = Augmentation(area=(1.0, 1.0), light=0.0)
    kinds = {still.draw(picture, value, torch.Generator().manual_seed(seed))[0].tobytes() for seed in range(20)}
    assert kinds == {picture.tobytes(), np.ascontiguousarray(picture[:, ::-1]).tobytes()}
