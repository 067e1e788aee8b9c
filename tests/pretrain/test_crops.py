"""Crops are what they claim to be: Pillow's pixels, boxes within the ranges, a draw for every picture."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from dinokit.errors import UserError
from dinokit.pretrain.colour import GREY_WEIGHTS, ColourDraw, MeanStd, colour_map, draw_colour, solarize
from dinokit.pretrain.crops import (
    ASPECT_RANGE,
    Crops,
    CropSettings,
    draw_boxes,
    make_crops,
)
from dinokit.pretrain.resampling import blur_matrix, resampling_matrix, resampling_taps

PICTURES = sorted((Path(__file__).parent.parent / "pictures").glob("**/*.jpg"))
SIDE = 144
UNIT: MeanStd = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
IMAGENET: MeanStd = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PLAIN = CropSettings(
    global_size=96,
    local_size=48,
    local_number=6,
    horizontal_flip=0.0,
    jitter_probability=0.0,
    grey_probability=0.0,
    blur_probabilities=(0.0, 0.0, 0.0),
    solarize_probability=0.0,
)


@pytest.fixture(scope="module")
def photos() -> Tensor:
    """uint8 [B, 3, 144, 144]: photographs squashed to squares."""
    loaded = [Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC) for path in PICTURES]
    assert loaded, "no photographs in tests/pictures"
    return torch.stack([torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in loaded])


def crop(pictures: Tensor, chosen: CropSettings, seed: int = 0, mean_std: MeanStd = UNIT) -> Crops:
    generator = torch.Generator().manual_seed(seed)
    return make_crops(pictures, torch.ones(len(pictures)), chosen, mean_std, generator)


def operator(start: float, end: float, out: int) -> Tensor:
    """[out, 144]: the resampling matrix of one picture."""
    edges = (torch.tensor([float(start)]), torch.tensor([float(end)]))
    return resampling_matrix(resampling_taps(*edges, torch.tensor([False]), SIDE, out, torch.device("cpu")), SIDE)[0]


@pytest.mark.parametrize("box", [(0, 0, 144, 144), (10, 20, 110, 90), (100, 3, 144, 50), (30, 90, 62, 118)])
@pytest.mark.parametrize("out", [96, 48])
def test_a_crop_is_pillows_crop_and_bicubic_resize(photos: Tensor, box: tuple[int, int, int, int], out: int) -> None:
    left, top, right, bottom = box
    columns, rows = operator(left, right, out), operator(top, bottom, out)
    for photo in photos:
        soft = photo // 2 + 64  # Pillow clamps between its two passes; here nothing overshoots
        ours = rows @ soft.float() @ columns.mT
        cut = Image.fromarray(soft.permute(1, 2, 0).numpy()).crop(box)
        theirs = torch.from_numpy(np.array(cut.resize((out, out), Image.Resampling.BICUBIC))).permute(2, 0, 1)
        assert (ours - theirs).abs().max() <= 1.5
        part = photo[None, :, top:bottom, left:right].float()
        exact = torch.nn.functional.interpolate(part, (out, out), mode="bicubic", antialias=True)[0]
        torch.testing.assert_close(rows @ photo.float() @ columns.mT, exact, atol=0.01, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_views_show_what_their_boxes_say(photos: Tensor, dtype: torch.dtype) -> None:
    chosen = CropSettings(**{**vars(PLAIN), "horizontal_flip": 0.5})
    generator = torch.Generator().manual_seed(3)
    soft = photos // 2 + 64
    crops = make_crops(soft, torch.full((len(photos),), 1.4), chosen, UNIT, generator, dtype)
    for views, boxes, flips in (
        (crops.global_views, crops.global_boxes, crops.global_flips),
        (crops.local_views, crops.local_boxes, crops.local_flips),
    ):
        assert flips.any()
        assert not flips.all()
        for number, picture in np.ndindex(flips.shape):
            photo = Image.fromarray(soft[picture].permute(1, 2, 0).numpy())
            box = tuple((boxes[number, picture] * SIDE).tolist())
            size = (views.shape[-1], views.shape[-1])
            theirs = torch.from_numpy(np.array(photo.resize(size, Image.Resampling.BICUBIC, box=box)))
            theirs = theirs.permute(2, 0, 1).flip(-1) if flips[number, picture] else theirs.permute(2, 0, 1)
            difference = (views[number, picture].float() * 255 - theirs).abs()
            # Pillow's `box=` reads a little beyond the box, so only the inside must agree
            assert difference[:, 4:-4, 4:-4].max() <= (1.5 if dtype == torch.float32 else 3.5)
            assert difference.mean() <= 1.5


def test_flipping_mirrors_the_view(photos: Tensor) -> None:
    straight = crop(photos, PLAIN)
    mirrored = crop(photos, CropSettings(**{**vars(PLAIN), "horizontal_flip": 1.0}))
    torch.testing.assert_close(mirrored.global_views, straight.global_views.flip(-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(mirrored.local_views, straight.local_views.flip(-1), atol=1e-5, rtol=0)


def gaussian(pictures: Tensor, sigma: float) -> Tensor:
    """The blur of torchvision, written out as a convolution of 9 × 9."""
    x = torch.linspace(-4, 4, 9)
    kernel = torch.exp(-0.5 * (x / sigma) ** 2)
    kernel = torch.outer(kernel, kernel) / kernel.sum() ** 2
    padded = torch.nn.functional.pad(pictures, (4, 4, 4, 4), mode="reflect")
    return torch.nn.functional.conv2d(padded, kernel.expand(3, 1, 9, 9), groups=3)


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur_is_a_gaussian_with_mirrored_borders(photos: Tensor, sigma: float) -> None:
    views = crop(photos, PLAIN).local_views[0]
    blur = blur_matrix(torch.tensor([sigma]), views.shape[-1])
    torch.testing.assert_close(blur @ views @ blur.mT, gaussian(views, sigma), atol=1e-5, rtol=0)


def test_blur_is_part_of_the_crop_and_shrinks_with_it(photos: Tensor) -> None:
    by_crop = (4.0 * PLAIN.global_size / 224, 4.0 * PLAIN.local_size / 96)
    chosen = {**vars(PLAIN), "blur_sigma": (4.0, 4.0), "horizontal_flip": 0.5}
    sharp = crop(photos, CropSettings(**chosen))
    blurred = crop(photos, CropSettings(**{**chosen, "blur_probabilities": (1.0, 0.0, 1.0)}))
    torch.testing.assert_close(blurred.global_views[1], sharp.global_views[1])
    for ours, view in zip(blurred.local_views, sharp.local_views, strict=True):  # clamped before, hence 2/255
        assert (ours - gaussian(view, by_crop[1])).abs().max() < 2 / 255
    assert (blurred.global_views[0] - gaussian(sharp.global_views[0], by_crop[0])).abs().max() < 2 / 255


def draw_of(order: list[int], grey: bool = False, **values: float) -> ColourDraw:
    neutral = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0, **values}
    one = {name: torch.tensor([value]) for name, value in neutral.items()}
    return ColourDraw(**one, order=torch.tensor([order]), grey=torch.tensor([grey]))


def apply(draw: ColourDraw, picture: Tensor) -> Tensor:
    matrix, offset = colour_map(draw, picture.mean(dim=(1, 2))[None])
    return (matrix[0] @ picture.flatten(1) + offset[0][:, None]).view_as(picture)


def grey_of(picture: Tensor) -> Tensor:
    return (picture * torch.tensor(GREY_WEIGHTS)[:, None, None]).sum(dim=0, keepdim=True)


def torchvision_step(name: str, factor: float, picture: Tensor) -> Tensor:
    """The formulas of torchvision's adjust_*, without the clamp after each."""
    if name == "brightness":
        return factor * picture
    other = grey_of(picture).mean() if name == "contrast" else grey_of(picture)
    return factor * picture + (1 - factor) * other


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [1, 0, 2, 3], [2, 3, 1, 0], [3, 2, 0, 1]])
def test_colour_steps_follow_torchvisions_formulas_in_the_drawn_order(photos: Tensor, order: list[int]) -> None:
    factors = {"brightness": 1.3, "contrast": 0.7, "saturation": 1.15}
    for photo in photos[:3]:
        expected = picture = photo.float() / 255
        for step in (number for number in order if number < 3):
            name = list(factors)[step]
            expected = torchvision_step(name, factors[name], expected)
        torch.testing.assert_close(apply(draw_of(order, **factors), picture), expected, atol=1e-5, rtol=0)
        grey = apply(draw_of(order, grey=True, **factors), picture)
        torch.testing.assert_close(grey, grey_of(expected).expand(3, -1, -1), atol=1e-5, rtol=0)


def test_hue_turns_colours_and_leaves_grey_and_brightness(photos: Tensor) -> None:
    picture = photos[0].float() / 255
    turned = apply(draw_of([3, 2, 1, 0], hue=0.1), picture)
    torch.testing.assert_close(grey_of(turned), grey_of(picture), atol=1e-5, rtol=0)
    greys = torch.linspace(0, 1, 27).expand(3, 1, 27)
    torch.testing.assert_close(apply(draw_of([0, 1, 2, 3], hue=0.1), greys), greys, atol=1e-5, rtol=0)
    again = apply(draw_of([0, 1, 2, 3], hue=-0.1), turned)
    torch.testing.assert_close(again, picture, atol=1e-5, rtol=0)
    red = torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1)
    towards_yellow = apply(draw_of([0, 1, 2, 3], hue=1 / 12), red).flatten()
    assert towards_yellow[1] > towards_yellow[2], "a positive hue turns red towards yellow, as in HSV"


def test_solarize_inverts_the_bright_half_of_the_chosen() -> None:
    values = torch.tensor([0.0, 0.4, 127 / 255, 128 / 255, 0.8, 1.0]).expand(2, 3, 1, 6)
    mean, std = (torch.tensor(part).view(3, 1, 1) for part in IMAGENET)
    views = (values - mean) / std
    solarize(views, torch.tensor([False, True]), IMAGENET)
    back = views * std + mean
    torch.testing.assert_close(back[0], values[0])
    expected = torch.tensor([0.0, 0.4, 127 / 255, 127 / 255, 0.2, 0.0]).expand(3, 1, 6)
    torch.testing.assert_close(back[1], expected, atol=1e-5, rtol=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    aspect=st.floats(0.5, 2.0),
    scale=st.sampled_from([(0.32, 1.0), (0.05, 0.32), (0.2, 0.2)]),
    seed=st.integers(0, 10**6),
)
def test_boxes_have_the_area_and_aspect_asked_for(aspect: float, scale: tuple[float, float], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    boxes = draw_boxes(torch.full((16,), aspect), 4, scale, generator)
    assert boxes.shape == (4, 16, 4)
    assert boxes.min() >= 0
    assert boxes.max() <= 1
    width, height = (boxes[..., 2] - boxes[..., 0]), (boxes[..., 3] - boxes[..., 1])
    assert (width * height).min() >= scale[0] - 1e-4
    assert (width * height).max() <= scale[1] + 1e-4
    ratio = width / height * aspect  # in pixels of the original
    assert ratio.min() >= ASPECT_RANGE[0] - 1e-3
    assert ratio.max() <= ASPECT_RANGE[1] + 1e-3


def test_a_very_wide_picture_gives_its_largest_central_box() -> None:
    boxes = draw_boxes(torch.tensor([10.0, 0.1]), 2, (0.5, 1.0), torch.Generator().manual_seed(0))
    share = 4 / 3 / 10
    wide = torch.tensor([0.5 - share / 2, 0.0, 0.5 + share / 2, 1.0])
    torch.testing.assert_close(boxes[:, 0], wide.expand(2, 4))
    torch.testing.assert_close(boxes[:, 1], wide[[1, 0, 3, 2]].expand(2, 4))


def test_every_picture_has_its_own_draw_and_a_seed_repeats_it(photos: Tensor) -> None:
    same = photos[:1].repeat(8, 1, 1, 1)
    chosen = CropSettings(global_size=96, local_size=48, local_number=3)
    first, again, other = (crop(same, chosen, seed) for seed in (1, 1, 2))
    for name, value in vars(first).items():
        assert torch.equal(value, getattr(again, name)), name
    assert not torch.equal(first.local_views, other.local_views)
    boxes = torch.cat((first.global_boxes, first.local_boxes)).flatten(0, 1)
    assert len(torch.unique(boxes, dim=0)) == len(boxes)
    means = torch.cat((first.global_views.mean(dim=(3, 4)).flatten(0, 1), first.local_views.mean((3, 4))[0]))
    assert len(torch.unique(means, dim=0)) == len(means)


def test_probabilities_are_roughly_those_asked_for(photos: Tensor) -> None:
    draw = draw_colour(4000, (0.4, 0.4, 0.2, 0.1), 0.8, 0.2, torch.Generator().manual_seed(0))
    assert abs((draw.brightness != 1).float().mean() - 0.8) < 0.03
    assert abs(draw.grey.float().mean() - 0.2) < 0.03
    for name, low, high in (("brightness", 0.6, 1.4), ("saturation", 0.8, 1.2), ("hue", -0.1, 0.1)):
        values = getattr(draw, name)
        assert low <= values.min() < low + 0.02
        assert high - 0.02 < values.max() <= high
    assert torch.bincount(draw.order[:, 0], minlength=4).min() > 900
    many = photos[:1, :, ::9, ::9].repeat(1000, 1, 1, 1).contiguous()
    small = CropSettings(**{**vars(PLAIN), "global_size": 8, "local_size": 8, "local_number": 1})
    plain = crop(many, small)
    for change, rates in (
        ({"horizontal_flip": 0.5}, (0.5, 0.5, 0.5)),
        ({"blur_probabilities": (1.0, 0.1, 0.5), "blur_sigma": (40.0, 50.0)}, (1.0, 0.1, 0.5)),
        ({"solarize_probability": 0.2}, (0.0, 0.2, 0.0)),
    ):
        changed = crop(many, CropSettings(**{**vars(small), **change}))
        pairs = zip(
            (*changed.global_views, changed.local_views[0]),
            (*plain.global_views, plain.local_views[0]),
            rates,
            strict=True,
        )
        for ours, before, rate in pairs:
            share = ((ours - before).abs().amax(dim=(1, 2, 3)) > 0.01).float().mean()
            assert abs(share - rate) < 0.05, change


def test_views_are_finite_normalised_and_shaped(photos: Tensor) -> None:
    chosen = CropSettings(global_size=64, local_size=32, local_number=5)
    crops = crop(photos, chosen, mean_std=IMAGENET)
    assert crops.global_views.shape == (2, len(photos), 3, 64, 64)
    assert crops.local_views.shape == (5, len(photos), 3, 32, 32)
    mean, std = (torch.tensor(part).view(3, 1, 1) for part in IMAGENET)
    for views in (crops.global_views, crops.local_views):
        assert views.isfinite().all()
        colours = views * std + mean
        assert colours.min() >= -1e-5
        assert colours.max() <= 1 + 1e-5
        assert 0.2 < colours.mean() < 0.8
    none = crop(photos, CropSettings(**{**vars(PLAIN), "local_number": 0}))
    assert none.local_views.shape == (0, len(photos), 3, 48, 48)
    torch.testing.assert_close(
        crop(photos, PLAIN, mean_std=IMAGENET).local_views * std + mean, crop(photos, PLAIN).local_views
    )


@pytest.mark.parametrize(("size", "aspect"), [(8, 1.0), (20, 3.0), (500, 0.2)])
def test_any_size_and_shape_of_picture_gives_crops(size: int, aspect: float) -> None:
    pictures = torch.full((2, 3, size, size), 90, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    crops = make_crops(pictures, torch.full((2,), aspect), PLAIN, UNIT, generator)
    for views in (crops.global_views, crops.local_views):  # an even picture stays even: rows sum to 1
        torch.testing.assert_close(views, torch.full_like(views, 90 / 255))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("global_size", 4),
        ("local_number", -1),
        ("global_scale", (0.5, 0.2)),
        ("local_scale", (0.0, 0.3)),
        ("global_scale", (0.5, 1.5)),
        ("hue", 0.7),
        ("contrast", math.nan),
        ("horizontal_flip", 1.5),
        ("blur_probabilities", (0.1, 0.2)),
        ("blur_sigma", (0.0, 2.0)),
    ],
)
def test_settings_out_of_bounds_are_named(field: str, value: object) -> None:
    with pytest.raises(UserError, match=field) as caught:
        CropSettings(**{field: value})  # type: ignore[arg-type]
    assert str(value) in str(caught.value)


def test_a_shared_colour_is_the_same_for_all_crops_of_a_picture() -> None:
    plain = torch.rand(6, 3, 1, 1, generator=torch.Generator().manual_seed(4)).mul(255).byte().expand(6, 3, 64, 64)
    settings = CropSettings(32, 16, 4, blur_probabilities=(0, 0, 0), solarize_probability=0, share_colour=True)
    crops = make_crops(plain, torch.ones(6), settings, IMAGENET, torch.Generator().manual_seed(5))
    colours = torch.cat((crops.global_views.mean((3, 4)), crops.local_views.mean((3, 4))))  # [6 crops, 6, 3]
    torch.testing.assert_close(colours, colours[:1].expand_as(colours), atol=1e-4, rtol=0)
    settings = replace(settings, share_colour=False)
    crops = make_crops(plain, torch.ones(6), settings, IMAGENET, torch.Generator().manual_seed(5))
    assert (crops.global_views.mean((3, 4)).diff(dim=0).abs() > 0.05).any()


def test_windows_of_global_crops_lie_where_their_boxes_say(photos: Tensor) -> None:
    settings = CropSettings(64, 32, 4, local_from_global=True)
    aspects = torch.ones(len(photos))
    crops = make_crops(photos, aspects, settings, IMAGENET, torch.Generator().manual_seed(6), patch_size=16)
    fresh = make_crops(
        photos,
        aspects,
        replace(settings, local_from_global=False, local_number=0),
        IMAGENET,
        torch.Generator().manual_seed(6),
    )
    assert torch.equal(crops.global_views, fresh.global_views)
    for i in range(4):
        whole = crops.global_views[i // 2]
        for b in range(len(photos)):
            left, top, right, _ = crops.global_boxes[i // 2, b].tolist()
            box = crops.local_boxes[i, b].tolist()
            x = (box[0] - left) / (right - left) * 64
            x = 32 - x if crops.local_flips[i, b] else x
            y = (box[1] - top) / (crops.global_boxes[i // 2, b, 3].item() - top) * 64
            x, y = round(x), round(y)
            assert x % 16 == y % 16 == 0
            assert torch.equal(crops.local_views[i, b], whole[b, :, y : y + 32, x : x + 32])
