"""Label propagation and scores of videos against the reference outputs."""

import json
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from helpers_golden import GOLDEN, load_golden
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from dinokit.heads.propagate import Memory, PropagateSettings, to_cells, to_pixels
from dinokit.heads.video_scores import boundary_score, region_score, score_video

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("shape", ["circle", "square"])
def test_propagation_is_the_published_one(shape: str) -> None:
    tensors, facts = load_golden("eval_blocks")
    options = facts["track"][shape]
    chosen = PropagateSettings(
        options["max_context_length"], options["neighbourhood_size"], shape, options["topk"], options["temperature"]
    )
    first = to_cells(tensors["in.track.first_mask"], (0, 1, 2), 8, 11)
    assert torch.equal(first.argmax(-1).to(torch.uint8), tensors["out.track.first_mask_at_feature_size"])
    memory = Memory(first, chosen)
    for number, frame in enumerate(tensors["in.track.features"]):
        vectors = normalize(frame.float(), dim=-1)
        probabilities = memory.ask(vectors) if number else first
        memory.add(vectors, probabilities)
        if not number:
            continue
        expected = tensors[f"out.track.{shape}.probs{number}"]
        torch.testing.assert_close(probabilities, expected, atol=1e-6, rtol=1e-5)
        labels = to_pixels(expected, 40, 57, smooth=False)
        assert torch.equal(labels, tensors[f"out.track.{shape}.pred{number}"])


def test_default_settings_are_the_published_ones() -> None:
    assert PropagateSettings() == PropagateSettings(7, 12, "circle", 5, 0.2)


def ask_plainly(asked: Tensor, known: Tensor, values: Tensor, chosen: PropagateSettings) -> Tensor:
    """The same vote over all pairs of cells, cell by cell."""
    rows, cols, _ = asked.shape
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(cols)).float()
    found = torch.empty(rows * cols, values.shape[-1])
    for cell, place in enumerate(places):
        apart = (places - place).abs()
        distance = apart.norm(dim=-1) if chosen.shape == "circle" else apart.amax(-1)
        near = distance <= chosen.radius
        similar = (known.flatten(1, 2) @ asked.flatten(0, 1)[cell])[:, near].flatten()
        last = similar.topk(min(chosen.neighbours, len(similar))).values[-1]
        weights = torch.where(similar >= last, (similar / chosen.temperature).exp(), 0)
        found[cell] = weights @ values.flatten(1, 2)[:, near].flatten(0, 1) / weights.sum()
    return found.view(rows, cols, -1)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 20),
    cols=st.integers(1, 36),
    frames=st.integers(1, 4),
    radius=st.sampled_from([0, 1, 2.5, 6, 50]),
    shape=st.sampled_from(["circle", "square"]),
    neighbours=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_blocks_change_nothing(
    rows: int, cols: int, frames: int, radius: float, shape: str, neighbours: int, seed: int
) -> None:
    chance = torch.Generator().manual_seed(seed)
    known = normalize(torch.randn(frames, rows, cols, 5, generator=chance), dim=-1)
    values = torch.rand(frames, rows, cols, 3, generator=chance)
    chosen = PropagateSettings(frames - 1, radius, shape, neighbours, 0.3)  # type: ignore[arg-type]
    memory = Memory(values[0], chosen)
    for one, value in zip(known, values, strict=True):
        memory.add(one, value)
    asked = normalize(torch.randn(rows, cols, 5, generator=chance), dim=-1)
    expected = ask_plainly(asked, known, values, chosen)
    expected = expected / expected.sum(-1, keepdim=True)
    torch.testing.assert_close(memory.ask(asked), expected, atol=1e-5, rtol=1e-4)


def test_memory_holds_the_first_frame_and_the_last_ones() -> None:
    """What lies further back than the queue has no say."""
    cells = normalize(torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0)), dim=-1)
    memory = Memory(torch.zeros(3, 4, 12), PropagateSettings(queue=3, radius=0, neighbours=9))
    for number in range(10):
        value = torch.zeros(3, 4, 12)
        value[..., number] = 1
        memory.add(cells, value)
    said = memory.ask(cells)[0, 0]
    assert said.nonzero().flatten().tolist() == [0, 7, 8, 9]


@given(
    rows=st.integers(1, 9),
    cols=st.integers(1, 9),
    height=st.integers(9, 60),
    width=st.integers(9, 60),
    smooth=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_each_pixel_gets_what_is_most_probable_there(
    rows: int, cols: int, height: int, width: int, smooth: bool
) -> None:
    cells = torch.rand(rows, cols, 3, generator=torch.Generator().manual_seed(rows * cols))
    least, most = cells.amin((0, 1)), cells.amax((0, 1))
    even = ((cells - least) / (most - least)).nan_to_num(0).permute(2, 0, 1)
    options: dict[str, Any] = {"mode": "bilinear", "align_corners": False} if smooth else {"mode": "nearest"}
    whole = interpolate(even[None], (height, width), **options)[0]
    with mock.patch("dinokit.images.cells._BAND_VALUES", 5 * 3 * width):  # several bands
        labels = to_pixels(cells, height, width, smooth)
    assert (whole.gather(0, labels[None].long())[0] > whole.amax(0) - 1e-5).all()


def test_scores_are_the_official_ones() -> None:
    facts = json.loads((GOLDEN / "metrics.json").read_text())["davis"]
    true, found = (np.array(facts[name], dtype=np.uint8) for name in ("ground_truth", "prediction"))
    for key, expected in facts["objects"].items():
        pairs = [(found[i] == int(key), true[i] == int(key)) for i in range(len(true))]
        assert [region_score(*pair) for pair in pairs] == pytest.approx(expected["J_per_frame"], abs=1e-9)
        assert [boundary_score(*pair) for pair in pairs] == pytest.approx(expected["F_per_frame"], abs=1e-9)
    score = score_video(zip(found[1:-1], true[1:-1], strict=True), (1, 2))
    expected = facts["semi_supervised"]
    assert (score.region, score.boundary) == pytest.approx((expected["J_mean"], expected["F_mean"]), abs=1e-9)
    assert score.mean == pytest.approx(expected["J&F"], abs=1e-9)


def test_void_pixels_and_larger_pictures() -> None:
    facts = json.loads((GOLDEN / "metrics.json").read_text())["davis"]
    true, found = (np.array(facts[name], dtype=np.uint8) for name in ("ground_truth", "prediction"))
    void = facts["with_void"]
    frame, number = void["frame"], void["object"]
    masks = found[frame] == number, true[frame] == number, np.array(void["void_pixels"], dtype=bool)
    assert region_score(*masks) == pytest.approx(void["J"], abs=1e-9)
    assert boundary_score(*masks) == pytest.approx(void["F"], abs=1e-9)
    larger, boxes = facts["larger"], []
    for name in ("prediction_box_yxyx", "ground_truth_box_yxyx"):
        top, left, bottom, right = larger[name]
        boxes.append(np.zeros(larger["size"], dtype=bool))
        boxes[-1][top:bottom, left:right] = True
    assert (region_score(*boxes), boundary_score(*boxes)) == pytest.approx((larger["J"], larger["F"]), abs=1e-9)


def test_nothing_where_nothing_is_counts_as_right() -> None:
    empty, some = np.zeros((20, 30), dtype=bool), np.eye(20, 30, dtype=bool)
    assert region_score(empty, empty) == boundary_score(empty, empty) == 1
    assert region_score(some, empty) == boundary_score(some, empty) == 0
