"""Pictures of what a backbone sees, one PNG for each photo: the photo, its features as colours, its foreground.

Every cell of the patch grid is drawn as a square of whole pixels: what one sees is what the features hold. Colours
are the first three principal components of the photo's own patches.
"""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dinokit.checkpoints.folders import check_folder
from dinokit.checkpoints.save import write_atomically
from dinokit.data.folder import Files
from dinokit.data.opening import open_pictures
from dinokit.data.pictures import Pictures
from dinokit.data.track import Track
from dinokit.errors import UserError
from dinokit.heads.colours import pca_colours
from dinokit.images.geometry import resize, to_tensor
from dinokit.images.read import ReadError, read
from dinokit.inference.backbone import Backbone
from dinokit.report.feature_maps import foreground
from dinokit.report.looking import look

PANEL = 480
"""Pixels that the longer side of a panel comes near to."""
_GAP = 12
_LONGEST_NAME = 180  # bytes of a name that are kept: file systems take 255, and an ending is added
_BACKGROUND = 0.12  # how bright the background stays in the third panel

Bytes = NDArray[np.uint8]


def show_pictures(
    sources: Sequence[str],
    backbone: Backbone,
    out: Path,
    *,
    size: int,
    warn: Callable[[str], None],
    track: Track,
) -> Iterator[Path]:
    """Write `out`/NAME-features.png for each readable picture of `sources`, in order, and yield the paths.

    size: short side in pixels; very oblong pictures are read smaller. Unreadable pictures go to `warn`. Raises
    `UserError` if nothing can be read, `out` cannot be written, or a file to write is one of the pictures themselves.
    """
    pictures = open_pictures(list(sources))
    if out.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"):
        raise UserError(f"--out {out} is the name of a picture", "name the folder for the pictures")
    check_folder(out)
    paths = _free_paths(pictures, out)
    failures: list[ReadError] = []
    for i in track(range(len(pictures)), len(pictures), "drawing features"):
        try:
            picture = read(pictures.read_bytes(i), name=pictures.key(i))
            features = look(backbone, picture, size, pictures.key(i))
        except ReadError as error:
            failures.append(error)
            continue
        content = io.BytesIO()
        Image.fromarray(draw_maps(picture, features.patches[0].cpu().numpy())).save(content, "PNG")
        write_atomically(paths[i], content.getvalue())
        yield paths[i]
    if len(failures) == len(pictures):
        _raise_all(failures)
    for failure in failures:
        warn(f"{failure.message}; skipped")


def draw_maps(picture: Bytes, patches: NDArray[np.float32]) -> Bytes:
    """Photo uint8 [H, W, 3] and its patches [h, w, D] as three panels side by side: uint8 [h', w', 3]."""
    rows, cols = patches.shape[:2]
    cell = max(round(PANEL / max(rows, cols)), 1)
    shape = (rows * cell, cols * cell)
    photo = resize(to_tensor(picture), shape)[0].permute(1, 2, 0).numpy()  # [h', w', 3]
    colours = _enlarge(pca_colours(patches), cell)
    bright = _BACKGROUND + (1 - _BACKGROUND) * _enlarge(foreground(patches), cell)
    cut = np.round(photo * bright[..., None]).astype(np.uint8)
    gap = np.full((shape[0], _GAP, 3), 255, dtype=np.uint8)
    return np.concatenate([photo, gap, colours, gap, cut], axis=1)


def _enlarge(cells: NDArray[Any], factor: int) -> NDArray[Any]:
    """[h, w, ...] -> [h * factor, w * factor, ...]."""
    return cells.repeat(factor, axis=0).repeat(factor, axis=1)


def _free_paths(pictures: Pictures, out: Path) -> list[Path]:
    """Where the features of each picture go; -2, ... is added where a picture of another folder has the name."""
    paths: dict[Path, None] = {}
    for i in range(len(pictures)):
        name = f"{_shortened(Path(pictures.key(i)).stem)}-features"
        number, path = 1, out / f"{name}.png"
        while path in paths:
            number += 1
            path = out / f"{name}-{number}.png"
        paths[path] = None
    sources = {path.resolve() for path in pictures.paths} if isinstance(pictures, Files) else set()
    for path in paths:
        if path.resolve() in sources:
            raise UserError(f"{path} is one of the pictures and would be overwritten", "give another --out")
    return list(paths)


def _shortened(name: str) -> str:
    while len(os.fsencode(name)) > _LONGEST_NAME:
        name = name[:-1]
    return name


def _raise_all(failures: Sequence[ReadError]) -> None:
    if len(failures) == 1:
        raise failures[0]
    what = f"none of the {len(failures)} pictures can be read, for example: {failures[0].message}"
    raise UserError(what, "name JPEG, PNG or WebP pictures")
