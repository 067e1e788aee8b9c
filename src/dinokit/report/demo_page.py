"""The demo page: one HTML file in which features of photos can be looked at and pointed at.

Everything is inside: photos, small maps made by `feature_maps`, the features themselves (reduced and in
int8, for the cosines that the page computes while one points), style and script. It needs no server and
no network. Style, script and skeleton lie in `demo_page_parts/` and are put together here.
"""

import base64
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dinokit.errors import UserError
from dinokit.report import feature_maps

SCRIPTS = ("features.js", "explore.js", "views.js", "start.js")
LARGEST_SIDE = 800
MATCHES_SHOWN = 400


@dataclass(frozen=True)
class DemoPhoto:
    """A photo and its features."""

    name: str
    """What it shows, in a few words."""
    credit: str
    """Whose it is and its licence; may be empty."""
    picture: feature_maps.Bytes
    """uint8 [H, W, 3], as the page shows it: see `shrink`."""
    patches: feature_maps.Floats
    """[h, w, D]: the grid covers the whole picture."""
    cls: feature_maps.Floats
    """[D]"""
    source: str = ""
    """Where it and its licence can be read, as text with links."""


def shrink(picture: feature_maps.Bytes) -> feature_maps.Bytes:
    """The picture uint8 [H, W, 3] with sides of at most `LARGEST_SIDE` pixels."""
    image = Image.fromarray(picture)
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS)
    return np.asarray(image)


def write_demo_page(
    photos: Sequence[DemoPhoto], pair: tuple[int, int] | None, about: Mapping[str, str], out: Path
) -> Path:
    """Writes `out/index.html` and returns its path.

    `pair` are the indices of two views of one place, for corresponding points. `about` is shown as a list;
    its first four entries also at the top of the page. Raises UserError when `out` cannot be written.
    """
    page = _fill(_page_data(photos, pair, about))
    prepare_folder(out)
    path = out / "index.html"
    unfinished = out / ".index.html.unfinished"
    try:
        unfinished.write_text(page, encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        raise _unwritable(path, error.strerror) from error
    return path


def prepare_folder(out: Path) -> None:
    """Makes the folder for the page; raises UserError when nothing can be written there."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(out, error.strerror) from error
    if not os.access(out, os.W_OK):
        raise _unwritable(out, "not allowed")


def _unwritable(path: Path, reason: str | None) -> UserError:
    return UserError(f"cannot write {path} ({reason})", "choose another folder with --out")


def _fill(data: Mapping[str, Any]) -> str:
    parts = resources.files("dinokit.report") / "demo_page_parts"
    script = "\n".join((parts / name).read_text(encoding="utf-8") for name in SCRIPTS)
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    page = (parts / "demo.html").read_text(encoding="utf-8")
    fillings = {
        "/*STYLE*/": (parts / "demo.css").read_text(encoding="utf-8"),
        "/*SCRIPT*/": script.replace('"use strict";\n', ""),
        "/*DATA*/": text,
    }
    for mark, filling in fillings.items():
        before, after = page.split(mark)
        page = before + filling + after
    return page


def _page_data(photos: Sequence[DemoPhoto], pair: tuple[int, int] | None, about: Mapping[str, str]) -> dict[str, Any]:
    patches = [photo.patches for photo in photos]
    packed = feature_maps.pack_patches(patches)
    shared = feature_maps.shared_pca_colours(patches)
    nearest, cosines = feature_maps.nearest_photos(np.stack([photo.cls for photo in photos]))
    entries = [
        _photo_data(photo)
        | {
            "codes": _base64(packed.codes[i]),
            "shared": _base64(shared[i]),
            "nearest": [[int(n), round(float(c), 4)] for n, c in zip(nearest[i], cosines[i], strict=True)],
        }
        for i, photo in enumerate(photos)
    ]
    return {
        "photos": entries,
        "scales": [float(f"{scale:.6g}") for scale in packed.scales],
        "pair": _pair_data(photos, pair) if pair else None,
        "about": dict(about),
        "packed": _packing_note(packed, patches[0].shape[-1]),
    }


def _photo_data(photo: DemoPhoto) -> dict[str, Any]:
    picture = Image.fromarray(photo.picture)
    file = io.BytesIO()
    picture.save(file, "jpeg", quality=84, optimize=True, progressive=True)
    front = np.round(feature_maps.foreground(photo.patches) * 255).astype(np.uint8)
    return {
        "name": photo.name,
        "credit": photo.credit,
        "source": photo.source,
        "width": picture.width,
        "height": picture.height,
        "rows": photo.patches.shape[0],
        "cols": photo.patches.shape[1],
        "jpeg": base64.b64encode(file.getvalue()).decode("ascii"),
        "own": _base64(feature_maps.pca_colours(photo.patches)),
        "foreground": _base64(front),
    }


def _pair_data(photos: Sequence[DemoPhoto], pair: tuple[int, int]) -> dict[str, Any]:
    matches = feature_maps.mutual_matches(photos[pair[0]].patches, photos[pair[1]].patches)
    rows = [
        [int(a[0]), int(a[1]), int(b[0]), int(b[1]), round(float(c), 3)]
        for a, b, c in zip(matches.first, matches.second, matches.cosine, strict=True)
    ]
    return {"first": pair[0], "second": pair[1], "matches": rows[:MATCHES_SHOWN]}


def _packing_note(packed: feature_maps.PackedPatches, depth: int) -> str:
    return (
        f"For the similarities in this page the {depth} numbers of a patch are reduced to the "
        f"{len(packed.scales)} strongest directions and stored in one byte each: {100 * packed.kept:.1f} % "
        f"of their squared length is kept, and a cosine is wrong by {packed.mean_error:.4f} on average. "
        "Colours, foreground, neighbours and corresponding points were computed from the whole features."
    )


def _base64(array: np.ndarray[Any, Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")
