"""Pictures of what a backbone sees, one PNG for each photo: the photo, its features as colours, its foreground.

Every cell of the patch grid is drawn as a square of whole pixels, unsmoothed: what one sees is what the features
hold. Colours are the first three principal components of the photo's own patches.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dinokit.checkpoints.save import write_atomically
from dinokit.data.opening import open_pictures
from dinokit.errors import UserError
from dinokit.images.geometry import resize, to_tensor
from dinokit.images.read import ReadError, read
from dinokit.inference.backbone import Backbone
from dinokit.report.feature_maps import foreground, pca_colours

PANEL = 480
"""Pixels that the longer side of a panel comes near to."""
_GAP = 12
_BACKGROUND = 0.12  # how bright the background stays in the third panel

Bytes = NDArray[np.uint8]


def show_pictures(
    sources: Sequence[str], backbone: Backbone, out: Path, *, size: int | None, warn: Callable[[str], None]
) -> Iterator[Path]:
    """Write `out`/NAME.png for each readable picture of `sources`, in order, and yield the paths.

    size: short side in pixels; None: the model's own. Unreadable pictures go to `warn`. Raises `UserError` if
    nothing can be read or `out` cannot be written.
    """
    pictures = open_pictures(list(sources))
    _make_folder(out)
    taken: set[str] = set()
    failures: list[ReadError] = []
    for i in range(len(pictures)):
        try:
            picture = read(pictures.read_bytes(i), name=pictures.key(i))
        except ReadError as error:
            failures.append(error)
            continue
        path = out / f"{_free_name(Path(pictures.key(i)).stem, taken)}.png"
        patches = backbone.encode(picture, size=size).patches[0].float().cpu().numpy()  # [h, w, D]
        content = io.BytesIO()
        Image.fromarray(draw_maps(picture, patches)).save(content, "PNG")
        write_atomically(path, content.getvalue())
        yield path
    if not taken:
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


def _free_name(stem: str, taken: set[str]) -> str:
    """`stem`, or `stem-2`, ... where a picture of another folder has it."""
    name, number = stem, 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}"
    taken.add(name)
    return name


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise UserError(f"--out {out} cannot be made ({problem.strerror})", "name a folder") from None


def _raise_all(failures: Sequence[ReadError]) -> None:
    if len(failures) == 1:
        raise failures[0]
    what = f"none of the {len(failures)} pictures can be read, for example: {failures[0].message}"
    raise UserError(what, "name JPEG, PNG or WebP pictures")
