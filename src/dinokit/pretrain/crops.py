"""Multi-crop augmentation of a whole batch as tensor algebra, on whatever device the pictures are.

A view is rows @ picture @ columnsᵀ: two antialiased resampling operators [out, S] hold box, flip and blur,
so every picture has its own draw. Columns are a dense matrix, rows a weighted sum of the few rows they read
(a third of the time). Colour is one affine map (colour.py). Draws are made on the CPU: the same everywhere.
Source: DINO (Caron et al. 2021), DINOv3 section 3; boxes as torchvision's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from dinokit.errors import UserError
from dinokit.pretrain.colour import ColourDraw, MeanStd, distort_and_normalize, draw_colour, solarize
from dinokit.pretrain.resampling import blur_matrix, resampling_matrix, resampling_taps

ASPECT_RANGE: Final = (3 / 4, 4 / 3)
"""Width / height of a crop in pixels of the original picture."""
TRIES: Final = 10
PUBLISHED_SIZES: Final = (224, 96)

_SHARES: Final = (
    *("brightness", "contrast", "saturation", "horizontal_flip"),
    *("jitter_probability", "grey_probability", "solarize_probability"),
)
_BOUNDS: Final = (
    *(("global_size", 8, 4096), ("local_size", 8, 4096), ("local_number", 0, 256), ("hue", 0.0, 0.5)),
    *((name, 0.0, 1.0) for name in _SHARES),
)
Pair = tuple[float, float]


@dataclass(frozen=True)
class CropSettings:
    """Which crops are taken of each picture, and how they are distorted.

    Blur: the paper (and DINO) mean (1.0, 0.1, 0.5), and so do we. The published code hands 1 - p to a class
    that applies with probability p, so the published models were trained with (0.0, 0.9, 0.5).
    """

    global_size: int = 224
    """Side of the two global crops, pixels."""
    local_size: int = 96
    """Side of the local crops, pixels."""
    local_number: int = 8
    """Local crops a picture; 0 for none."""
    global_scale: Pair = (0.32, 1.0)
    """Range of a global crop's area, as a share of the picture's."""
    local_scale: Pair = (0.05, 0.32)
    """Range of a local crop's area, as a share of the picture's."""
    horizontal_flip: float = 0.5
    """Probability of a mirrored crop."""
    brightness: float = 0.4
    """Factor of the colour: 1 ± this."""
    contrast: float = 0.4
    """Factor of the distance from the mean grey: 1 ± this."""
    saturation: float = 0.2
    """Factor of the distance from grey: 1 ± this."""
    hue: float = 0.1
    """Turn about the grey axis: ± this, in whole turns."""
    jitter_probability: float = 0.8
    """Probability that brightness, contrast, saturation and hue are changed at all."""
    grey_probability: float = 0.2
    """Probability that the colour is taken away."""
    blur_probabilities: tuple[float, float, float] = (1.0, 0.1, 0.5)
    """Probability of a Gaussian blur for global 1, global 2 and local crops."""
    blur_sigma: Pair = (0.1, 2.0)
    """Range of the blur's standard deviation (kernel of 9), in pixels of crops of the published sizes, 224 and 96;
    it shrinks with smaller crops, which it would otherwise rob of all detail."""
    solarize_probability: float = 0.2
    """Probability that the bright half of the second global crop is inverted."""
    share_colour: bool = False
    """One draw of jitter and grey for all crops of a picture (as the published `share_color_jitter`, which distorts
    the picture before it is cropped; here contrast is about each crop's own grey)."""
    local_from_global: bool = False
    """Local crops are windows of the distorted global crops, half of each, on the patch grid (the published
    `localcrops_subset_of_globalcrops`)."""

    def __post_init__(self) -> None:
        outside = (bound for bound in _BOUNDS if not bound[1] <= getattr(self, bound[0]) <= bound[2])
        wrong = [(name, f"{low} to {high}") for name, low, high in outside]
        for name, most in (("global_scale", 1.0), ("local_scale", 1.0), ("blur_sigma", 100.0)):
            pair = getattr(self, name)
            if len(pair) != 2 or not 0 < pair[0] <= pair[1] <= most:
                wrong.append((name, f"0 < low <= high <= {most}"))
        if len(self.blur_probabilities) != 3 or not all(0 <= p <= 1 for p in self.blur_probabilities):
            wrong.append(("blur_probabilities", "three values, 0 to 1"))
        if self.local_from_global and self.local_size > self.global_size:
            wrong.append(("local_size", "no more than global_size, of which local crops are windows"))
        for name, bound in wrong:
            raise UserError(f"crops.{name} = {getattr(self, name)} is out of bounds", f"give {bound}")


@dataclass(frozen=True)
class Crops:
    """The views of B pictures, normalised, with where each was taken."""

    global_views: Tensor  # [2, B, 3, g, g]
    local_views: Tensor  # [n, B, 3, l, l]
    global_boxes: Tensor  # [2, B, 4] (x0, y0, x1, y1) as shares of width and height; these four on the CPU
    local_boxes: Tensor  # [n, B, 4]
    global_flips: Tensor  # [2, B] bool: the view is mirrored
    local_flips: Tensor  # [n, B]


@torch.no_grad()
def make_crops(
    pictures: Tensor,
    aspects: Tensor,
    settings: CropSettings,
    mean_std: MeanStd,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
    patch_size: int = 16,
) -> Crops:
    """Takes two global and n local views of each picture, as the settings say.

    pictures: uint8 [B, 3, S, S], squashed to squares. aspects: float32 [B], original width / height; the
    squash is undone: crops have the shapes of the original. mean_std: of RGB in 0..1. generator: on the CPU.
    dtype: of the views and of the larger products; bfloat16 costs up to about 3/255 of a colour. patch_size: grid
    of the windows that `local_from_global` takes.
    """
    (first, second, local), number = settings.blur_probabilities, settings.local_number
    number = 0 if settings.local_from_global else number
    plans = (
        _draw_plan(aspects.cpu(), settings, settings.global_scale, (first, second), generator),
        _draw_plan(aspects.cpu(), settings, settings.local_scale, number * (local,), generator),
    )
    shared = _draw_colour(len(pictures), settings, generator) if settings.share_colour else None
    done = []
    with torch.autocast(pictures.device.type, enabled=False):
        sizes = (settings.global_size, settings.local_size)
        for plan, out, published in zip(plans, sizes, PUBLISHED_SIZES, strict=True):
            views = _take(pictures, replace(plan, sigmas=plan.sigmas * out / published), out, dtype)
            count = len(plan.flips)
            draw = shared.repeat(count) if shared else _draw_colour(count * len(pictures), settings, generator)
            done.append(distort_and_normalize(views.flatten(0, 1), draw, mean_std).view_as(views))
        chosen = torch.rand(len(pictures), generator=generator) < settings.solarize_probability
        solarize(done[0][1], chosen, mean_std)
    crops = Crops(done[0], done[1], plans[0].boxes, plans[1].boxes, plans[0].flips, plans[1].flips)
    return _take_windows(crops, settings, patch_size, generator) if settings.local_from_global else crops


def _draw_colour(count: int, settings: CropSettings, generator: torch.Generator) -> ColourDraw:
    strengths = (settings.brightness, settings.contrast, settings.saturation, settings.hue)
    return draw_colour(count, strengths, settings.jitter_probability, settings.grey_probability, generator)


def _take_windows(crops: Crops, settings: CropSettings, patch: int, generator: torch.Generator) -> Crops:
    """Local crops as windows of the global ones: the first half of the first, the others of the second."""
    out, side, number = settings.local_size, settings.global_size, settings.local_number
    batch = crops.global_views.shape[1]
    corners = torch.randint((side - out) // patch + 1, (number, batch, 2), generator=generator) * patch
    source = torch.arange(number) * 2 // max(number, 1)  # [n], 0 or 1
    windows = [
        crops.global_views[source[i], b, :, y : y + out, x : x + out]
        for i, row in enumerate(corners.tolist())
        for b, (x, y) in enumerate(row)
    ]
    views = torch.stack(windows) if windows else crops.global_views.new_empty(0, 3, out, out)
    boxes, flips = crops.global_boxes[source], crops.global_flips[source]  # [n, B, 4], [n, B]
    left, top, right, bottom = boxes.unbind(-1)
    x, y = corners.unbind(-1)
    x = torch.where(flips, side - out - x, x) / side
    y = y / side
    width, height, share = right - left, bottom - top, out / side
    x, y = left + x * width, top + y * height
    places = torch.stack((x, y, x + share * width, y + share * height), dim=-1)
    return replace(crops, local_views=views.unflatten(0, (number, batch)), local_boxes=places, local_flips=flips)


@dataclass(frozen=True)
class _Plan:
    """Where n crops of B pictures are taken, all on the CPU."""

    boxes: Tensor  # [n, B, 4]
    flips: Tensor  # [n, B] bool
    sigmas: Tensor  # [n, B]; 0 for no blur


def _draw_plan(
    aspects: Tensor,
    settings: CropSettings,
    scale: Pair,
    blur_probabilities: tuple[float, ...],
    generator: torch.Generator,
) -> _Plan:
    shape = (len(blur_probabilities), len(aspects))
    boxes = draw_boxes(aspects, shape[0], scale, generator)
    flips = torch.rand(shape, generator=generator) < settings.horizontal_flip
    low, high = settings.blur_sigma
    sigmas = low + (high - low) * torch.rand(shape, generator=generator)
    blurred = torch.rand(shape, generator=generator) < torch.tensor(blur_probabilities)[:, None]
    return _Plan(boxes, flips, sigmas * blurred)


def draw_boxes(aspects: Tensor, number: int, scale: Pair, generator: torch.Generator) -> Tensor:
    """[B] -> [number, B, 4]: boxes (x0, y0, x1, y1) in shares of width and height.

    Ten tries of an area share and a log-uniform aspect ratio in original pixels; where none fits, the largest
    central box whose aspect ratio is allowed.
    """
    shape = (TRIES, number, len(aspects))
    share = scale[0] + (scale[1] - scale[0]) * torch.rand(shape, generator=generator)
    low, high = (math.log(ratio) for ratio in ASPECT_RANGE)
    ratio = torch.exp(low + (high - low) * torch.rand(shape, generator=generator)) / aspects
    width, height = (share * ratio).sqrt(), (share / ratio).sqrt()  # as shares: their product is the area's
    fits = (width <= 1) & (height <= 1)
    first = fits.int().argmax(dim=0, keepdim=True)  # [1, n, B]; the first that fits
    central = aspects.clamp(*ASPECT_RANGE) / aspects
    any_fits = fits.any(dim=0)
    width = torch.where(any_fits, width.gather(0, first)[0], central.clamp(max=1))
    height = torch.where(any_fits, height.gather(0, first)[0], (1 / central).clamp(max=1))
    corner = torch.rand(2, number, len(aspects), generator=generator)
    left, top = torch.where(any_fits, corner, 0.5) * (1 - torch.stack((width, height)))
    return torch.stack((left, top, left + width, top + height), dim=-1).clamp(0, 1)


def _take(pictures: Tensor, plan: _Plan, out: int, dtype: torch.dtype) -> Tensor:
    """[B, 3, S, S] -> [n, B, 3, out, out], in 0..255."""
    number, batch = plan.flips.shape
    size, device = pictures.shape[-1], pictures.device
    table = pictures.float().view(batch * 3 * size, size)
    begins = torch.arange(batch * 3, device=device).view(batch, 3, 1, 1) * size
    views = torch.empty(number, batch, 3, out, out, device=device, dtype=dtype)
    never = torch.zeros(batch, dtype=torch.bool)
    for view, boxes, flips, sigmas in zip(views, plan.boxes, plan.flips, plan.sigmas, strict=True):
        left, top, right, bottom = (boxes * size).unbind(-1)
        columns = resampling_matrix(resampling_taps(left, right, flips, size, out, device), size)
        index, weight = resampling_taps(top, bottom, never, size, out, device)  # [B, out, taps]
        reads = (begins + index[:, None]).flatten(0, 2)  # [B*3*out, taps]
        weights = weight[:, None].expand(-1, 3, -1, -1).flatten(0, 2)
        # [B*3*S, S] -> [B*3*out, S]
        short = torch.nn.functional.embedding_bag(reads, table, per_sample_weights=weights, mode="sum")
        blurred = sigmas.nonzero().squeeze(1).to(device)  # [k]
        blur = blur_matrix(sigmas[sigmas > 0].to(device), out)  # [k, out, out]
        columns.index_copy_(0, blurred, torch.bmm(blur, columns[blurred]))
        short = short.view(batch, 3 * out, size).to(dtype)
        torch.bmm(short, columns.mT.to(dtype), out=view.view(batch, 3 * out, out))
        view.index_copy_(0, blurred, blur[:, None].to(dtype) @ view[blurred])
    return views
