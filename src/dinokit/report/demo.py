"""From photos to what the demo page needs: which ones, their features, which two are matched."""

import json
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from dinokit.checkpoints.files import CONFIG
from dinokit.checkpoints.load import BUNDLED, bundled_folder
from dinokit.checkpoints.model import ModelInfo
from dinokit.checkpoints.names import printable
from dinokit.data.folder import Files
from dinokit.data.opening import open_pictures
from dinokit.data.pictures import Pictures, subset
from dinokit.errors import UserError
from dinokit.images.draw import thumbnail
from dinokit.images.read import Picture, ReadError, read
from dinokit.inference.backbone import Backbone
from dinokit.report.bundled_photos import TWO_VIEWS, BundledPhoto, bundled_photos
from dinokit.report.demo_page import LARGEST_SIDE, DemoPhoto
from dinokit.report.feature_maps import nearest_photos
from dinokit.report.looking import look

MOST_PHOTOS = 24
MOST_OBLONG = 4
"""Long side by short side; of longer photos the page shows the middle."""


def choose_photos(source: str | None) -> tuple[Pictures, str]:
    """The photos of the package, or the first at `source`; and a remark where some are left out."""
    if source is None:
        return Files([photo.path for photo in bundled_photos()], "dinokit's photos"), ""
    pictures = open_pictures(source)
    remark = "" if len(pictures) <= MOST_PHOTOS else f"showing the first {MOST_PHOTOS} of {len(pictures)} photos"
    return subset(pictures, range(min(len(pictures), MOST_PHOTOS))), remark


def encode_photos(
    pictures: Pictures, backbone: Backbone, size: int, warn: Callable[[str], None]
) -> Iterator[DemoPhoto]:
    """Photo after photo with its features; unreadable ones go to `warn`; none readable is a UserError."""
    ours = {photo.path.as_posix(): photo for photo in bundled_photos()}
    unreadable: list[ReadError] = []
    for i in range(len(pictures)):
        key = pictures.key(i)
        try:
            yield _encode(pictures.read_bytes(i), key, ours.get(key), backbone, size)
        except ReadError as error:
            unreadable.append(error)
    if len(unreadable) == len(pictures):
        raise _none_readable(unreadable)
    for problem in unreadable:
        warn(f"{problem.message}; skipped")


def _encode(content: bytes, key: str, ours: BundledPhoto | None, backbone: Backbone, size: int) -> DemoPhoto:
    """The photo called `key`, which may be one of `ours`."""
    whole = read(content, name=key)
    picture = _middle(whole)
    features = look(backbone, picture, size, key)
    name = ours.name if ours else printable(Path(key).stem)
    return DemoPhoto(
        name=name if picture is whole else f"{name} (its middle)",
        credit=ours.credit if ours else "",
        source=ours.source if ours else "",
        picture=thumbnail(picture, LARGEST_SIDE),
        patches=features.patches[0].float().cpu().numpy(),  # [h, w, D]
        cls=features.cls[0].float().cpu().numpy(),  # [D]
    )


def _middle(picture: Picture) -> Picture:
    """The picture itself, or the middle of one that is longer than `MOST_OBLONG` times its short side."""
    height, width = picture.shape[:2]
    most = MOST_OBLONG * min(height, width)
    if max(height, width) <= most:
        return picture
    top, left = max(height - most, 0) // 2, max(width - most, 0) // 2
    return picture[top : top + most, left : left + most].copy()


def _none_readable(problems: Sequence[ReadError]) -> UserError:
    if len(problems) == 1:
        return problems[0]
    what = f"none of the {len(problems)} photos can be read; {problems[0].message}"
    return UserError(what, problems[0].hint)


def choose_pair(encoded: Sequence[DemoPhoto]) -> tuple[int, int] | None:
    """The two views of the package, else the two photos with the nearest class tokens; None for one photo."""
    names = [photo.name for photo in bundled_photos() if photo.path.name in TWO_VIEWS]
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


def upbringing(model: str, info: ModelInfo) -> str:
    """What is known of how the network called `model` learnt, as a sentence for the page."""
    if not info.weights_sha256:
        return "This network has not seen a single picture yet: its weights are random."
    bundled = json.loads((bundled_folder(BUNDLED) / CONFIG).read_text(encoding="utf-8"))
    run = Path(model)
    from_run = (run / "recipe.toml").is_file() and (run / "model").is_dir()
    if from_run or info.weights_sha256 == bundled["weights_sha256"]:
        return "This network has only ever looked at pictures, without a single label: nobody told it what a dog is."
    return "This is what a network makes of photos."
