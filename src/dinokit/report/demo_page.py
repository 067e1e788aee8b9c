"""The demo page: one HTML file in which features of photos can be looked at and pointed at.

Everything is inside: photos, small maps made by `feature_maps`, the features themselves (reduced and in
int8, for the cosines that the page computes while one points), style and script. It needs no server and
no network. Style, script and skeleton lie in `demo_page_parts/` and are put together here.
"""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dinokit.checkpoints.save import write_atomically
from dinokit.heads.colours import pca_colours, shared_pca_colours
from dinokit.heads.patches import Bytes, Floats, without_mean
from dinokit.report import feature_maps
from dinokit.report.opening import choose_opening, innermost

SCRIPTS = ("features.js", "explore.js", "views.js", "start.js")
LARGEST_SIDE = 800
MATCHES_SHOWN = 400
ALIKE = 0.1
"""Photos of a smaller cosine are not shown as alike."""
ALIKE_NOTE = (
    "What all photos here have in common, their mean, is taken away first: 0 is no more alike than any two. "
    "Those that are hardly alike are not shown."
)
GLOWING = 1.2
"""How much of all patches glows, in photos; a tenth of them at least, half of them at most."""


@dataclass(frozen=True)
class DemoPhoto:
    """A photo and its features."""

    name: str
    """What it shows, in a few words."""
    credit: str
    """Whose it is and its licence; may be empty."""
    picture: Bytes
    """uint8 [H, W, 3], as the page shows it: see `shrink`."""
    patches: Floats
    """[h, w, D]: the grid covers the whole picture."""
    cls: Floats
    """[D]"""
    source: str = ""
    """Where it and its licence can be read, as text with links."""


def write_demo_page(
    photos: Sequence[DemoPhoto], pair: tuple[int, int] | None, lead: str, about: Mapping[str, str], out: Path
) -> Path:
    """Writes `out/index.html` and returns its path.

    `pair` are the indices of two views of one place, for corresponding points. `lead` is the first sentence of the
    page. `about` is shown as a list; its first four entries also at the top. Raises UserError when `out` cannot be
    written.
    """
    page = _fill(_page_data(photos, pair, about) | {"lead": lead})
    path = out / "index.html"
    write_atomically(path, page.encode())
    return path


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
    centred = without_mean(patches)
    fronts = [feature_maps.foreground(grid) for grid in patches]
    starts = [innermost(front) for front in fronts]
    packed = feature_maps.pack_patches(centred)
    shared = shared_pca_colours(patches)
    entries = [
        _photo_data(photo, fronts[i])
        | {
            "codes": _base64(packed.codes[i]),
            "shared": _base64(shared[i]),
            "start": starts[i][0] * fronts[i].shape[1] + starts[i][1],
            "nearest": near,
        }
        for i, (photo, near) in enumerate(zip(photos, _neighbours(photos), strict=True))
    ]
    return {
        "photos": entries,
        "scales": [float(f"{scale:.6g}") for scale in packed.scales],
        "pair": _pair_data(centred, pair) if pair else None,
        "opening": choose_opening(centred, fronts, starts),
        "glowing": min(max(GLOWING / len(photos), 0.1), 0.5),
        "about": dict(about),
        "alikeNote": ALIKE_NOTE if len(photos) >= feature_maps.ENOUGH_FOR_MEAN else "",
        "packed": _packing_note(packed, patches[0].shape[-1]),
    }


def _neighbours(photos: Sequence[DemoPhoto]) -> list[list[tuple[int, float]]]:
    """For each photo the others that are alike, best first: index and cosine."""
    nearest, cosines = feature_maps.nearest_photos(np.stack([photo.cls for photo in photos]))
    return [
        [(int(other), round(float(cosine), 4)) for other, cosine in zip(*row, strict=True) if cosine > ALIKE]
        for row in zip(nearest, cosines, strict=True)
    ]


def _photo_data(photo: DemoPhoto, front: Floats) -> dict[str, Any]:
    picture = Image.fromarray(photo.picture)
    file = io.BytesIO()
    picture.save(file, "jpeg", quality=84, optimize=True, progressive=True)
    return {
        "name": photo.name,
        "credit": photo.credit,
        "source": photo.source,
        "width": picture.width,
        "height": picture.height,
        "rows": photo.patches.shape[0],
        "cols": photo.patches.shape[1],
        "jpeg": base64.b64encode(file.getvalue()).decode("ascii"),
        "own": _base64(pca_colours(photo.patches)),
        "foreground": _base64(np.round(front * 255).astype(np.uint8)),
    }


def _pair_data(patches: Sequence[Floats], pair: tuple[int, int]) -> dict[str, Any]:
    matches = feature_maps.mutual_matches(patches[pair[0]], patches[pair[1]])
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
