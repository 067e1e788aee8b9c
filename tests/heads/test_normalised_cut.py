"""The cut agrees with the published one, and finds what is known to lie there."""

import numpy as np
import pytest
from helpers_golden import load_golden

from dinokit.errors import UserError
from dinokit.heads.normalised_cut import MOST_PATCHES, connected_pieces, normalised_cut, second_eigenvector
from dinokit.heads.patches import unit_length


def test_the_eigenvector_and_the_piece_are_those_of_tokencut() -> None:
    tensors, facts = load_golden("normalised_cut")
    rows, cols = facts["ncut"]["grid"]
    features = tensors["in.ncut.features"].numpy()
    unit = unit_length(features)
    vector = second_eigenvector(unit @ unit.T > facts["ncut"]["tau"]).reshape(rows, cols)
    expected = tensors["out.ncut.eigenvector"].numpy()
    vector *= np.sign((vector * expected).sum())
    np.testing.assert_allclose(vector, expected, atol=1e-6)
    parts, scores = connected_pieces(vector - vector.mean())
    np.testing.assert_array_equal(parts[0], tensors["out.ncut.mask"].numpy().astype(bool))
    assert len(parts) == 2  # the other thing lies in the corner
    assert sum(scores) == pytest.approx(1)


@pytest.mark.parametrize("side", [9, 24])  # a whole decomposition, and the iteration
@pytest.mark.parametrize("threshold", [None, 0.5])
def test_a_square_on_a_ground_is_cut_out(side: int, threshold: float | None) -> None:
    generator = np.random.default_rng(0)
    inside = np.zeros((side, side + 3), dtype=bool)
    inside[side // 3 : side // 3 + 3, side // 2 : side // 2 + 4] = True
    thing, ground = generator.normal(size=(2, 32))
    noise = 0.2 * generator.normal(size=(*inside.shape, 32))
    cut = normalised_cut((np.where(inside[..., None], thing, ground) + noise).astype(np.float32), threshold)
    np.testing.assert_array_equal(cut.parts[0], inside)
    assert cut.scores == (1.0,)
    assert cut.values.max() <= 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 5)])
def test_nothing_stands_out_among_equals(shape: tuple[int, int]) -> None:
    for patches in (np.ones((*shape, 4), np.float32), np.zeros((*shape, 4), np.float32)):
        cut = normalised_cut(patches)
        assert cut.parts == ()
        assert not cut.values.any()


def test_too_many_patches_are_refused() -> None:
    with pytest.raises(UserError, match="too many to compare"):
        normalised_cut(np.zeros((1, MOST_PATCHES + 1, 2), np.float32))
