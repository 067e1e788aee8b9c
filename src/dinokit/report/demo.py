"""From photos to what the demo page needs: which ones, their features, which two are matched."""

import os
import platform
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dinokit.checkpoints.names import printable
from dinokit.data.listing import find_pictures
from dinokit.errors import UserError
from dinokit.images.read import ReadError, read
from dinokit.report.bundled_photos import TWO_VIEWS, BundledPhoto, bundled_photos
from dinokit.report.demo_page import DemoPhoto, shrink
from dinokit.report.feature_maps import nearest_photos

MOST_PHOTOS = 24
WIDEST = 2.0  # photos more oblong than this are read smaller, so that the page stays light


def choose_photos(source: str | None) -> tuple[list[BundledPhoto], str]:
    """The photos of the package, or those at `source`; and a remark where some are left out."""
    if source is None:
        return bundled_photos(), ""
    paths = find_pictures(source)
    if not paths:
        raise UserError(f"no pictures in {source}", "name a folder with JPEG, PNG or WebP files")
    remark = "" if len(paths) <= MOST_PHOTOS else f"showing the first {MOST_PHOTOS} of {len(paths)} photos"
    return [BundledPhoto(path, printable(path.stem)) for path in paths[:MOST_PHOTOS]], remark


def encode_photos(
    photos: Sequence[BundledPhoto], backbone: Any, size: int, warn: Callable[[str], None]
) -> Iterator[DemoPhoto]:
    """Photo after photo with its features; unreadable ones go to `warn`; none readable is a UserError."""
    unreadable: list[ReadError] = []
    done = 0
    for photo in photos:
        try:
            picture = read(photo.path)
        except ReadError as error:
            unreadable.append(error)
            continue
        features = backbone.encode(picture, size=_short_side(picture.shape[0], picture.shape[1], size))
        done += 1
        yield DemoPhoto(
            name=photo.name,
            credit=photo.credit,
            source=photo.source,
            picture=shrink(picture),
            patches=features.patches[0].float().cpu().numpy(),  # [h, w, D]
            cls=features.cls[0].float().cpu().numpy(),  # [D]
        )
    if len(unreadable) == 1 and not done:
        raise unreadable[0]
    if not done:
        raise UserError(
            f"none of the {len(unreadable)} photos can be read; {unreadable[0].message}", unreadable[0].hint
        )
    for problem in unreadable:
        warn(f"{problem.message}; skipped")


def choose_pair(encoded: Sequence[DemoPhoto], photos: Sequence[BundledPhoto]) -> tuple[int, int] | None:
    """The two views of the package, else the two photos with the nearest class tokens; None for one photo."""
    names = [photo.name for photo in photos if photo.path.name in TWO_VIEWS and photo.credit]
    views = [i for i, photo in enumerate(encoded) if photo.credit and photo.name in names]
    if len(views) == 2:
        return views[0], views[1]
    if len(encoded) < 2:
        return None
    indices, cosines = nearest_photos(np.stack([photo.cls for photo in encoded]), 1)
    first = int(cosines[:, 0].argmax())
    second = int(indices[first, 0])
    return min(first, second), max(first, second)


def describe(encoded: Sequence[DemoPhoto], model: str, patch: int, size: int, seconds: float) -> dict[str, str]:
    """What the page says about itself."""
    patches = sum(photo.patches.shape[0] * photo.patches.shape[1] for photo in encoded)
    return {
        "model": printable(Path(model).name if os.sep in model else model),
        "photos": str(len(encoded)),
        "patches": f"{patches:,} of {patch} × {patch} pixels",
        "numbers per patch": str(encoded[0].patches.shape[-1]),
        "read at": f"{size} pixels, short side",
        "time": f"{seconds:.0f} s from loading the model to the last photo",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }


def _short_side(height: int, width: int, size: int) -> int:
    ratio = max(height, width) / max(min(height, width), 1)
    return size if ratio <= WIDEST else max(round(size * (WIDEST / ratio) ** 0.5), 1)
