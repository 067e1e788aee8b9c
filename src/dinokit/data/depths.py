"""Depth maps beside pictures, in metres whatever the file.

Whole numbers of 16 bits or more (PNG, TIFF, NPY) are millimetres, other numbers (NPY, PFM, EXR, TIFF) metres. Nothing
was measured where there is 0, NaN or infinity.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dinokit.data.held import Held
from dinokit.data.pairs import Pairs
from dinokit.data.track import Track
from dinokit.errors import UserError
from dinokit.images.exr import read_exr, write_exr
from dinokit.images.kinds import UnreadableError
from dinokit.images.maps import MapFile, read_map

DepthMap = NDArray[np.float32]
"""Metres [H, W], 0 where nothing is known."""

_PER_METRE = 1000
ENDINGS = (".png", ".npy", ".pfm", ".exr")
"""Of files that depth is written to."""


class Depths(Sequence[DepthMap]):
    """The depth maps of pictures, see `read_depth`: all are read and checked at first, and stay as `Held` says.

    limits: least and greatest depth in metres. Pictures without any depth between the limits are left out with a
    warning. Raises `UserError` naming the file, or if none is left.
    """

    def __init__(self, pairs: Pairs, limits: tuple[float, float], track: Track) -> None:
        self.limits = limits
        held = Held(lambda i: _read_for_picture(pairs, i, limits), range(len(pairs)))
        digest, known = hashlib.sha256(), []
        for i, depth in enumerate(track(held, len(pairs), "reading depth")):
            digest.update(depth.tobytes())
            if depth.any():
                known.append(i)
        self.digest = digest.hexdigest()
        """Of all values: other maps have another."""
        _report(pairs, known, limits)
        self._held = held.part(known)
        self.pairs = pairs.part(known)
        """The pictures, without those that have no known depth."""

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, i: int) -> DepthMap:  # type: ignore[override]
        return self._held[i]


def read_depth(file: MapFile, limits: tuple[float, float]) -> DepthMap:
    """The depth in metres [H, W]; 0 where it is unknown or not between the limits.

    Raises `UserError` naming the file: unreadable, of 8 bits, negative, or in what looks like the wrong unit.
    """
    path, stored = file.name, _read_exr(file) if file.ending == ".exr" else read_map(file)
    whole = stored.dtype.kind != "f"
    if whole and stored.dtype.itemsize < 2:
        what = f"{path} has 8 bits, and 256 steps are too few for depth"
        raise UserError(what, "give 16-bit PNG in millimetres, or NPY, PFM or EXR in metres")
    known = np.isfinite(stored) & (stored != 0)
    values = stored[known]
    if (values < 0).any():
        raise UserError(f"{path} has negative depth ({values.min():g})", "0 or NaN stand for unknown depth")
    if len(values):
        _check_unit(path, float(np.median(values)), whole, limits[1])
    metres = np.where(known, stored, 0) / (_PER_METRE if whole else 1)
    inside = (metres > limits[0]) & (metres < limits[1])
    return np.where(inside, metres, 0).astype(np.float32)


def write_depth(metres: DepthMap, ending: str) -> bytes:
    """The content of a file of metres [H, W] for a name with this ending. `UserError` for one that is not known.

    .png: 16-bit millimetres, at most 65.535 m. .npy, .pfm, .exr: float32 metres.
    """
    content = io.BytesIO()
    if ending == ".exr":
        return write_exr(metres)
    if ending == ".png":
        millimetres, most = np.round(metres * _PER_METRE), np.iinfo(np.uint16).max
        if (millimetres > most).any():
            what = f"depth above {most / _PER_METRE} m does not fit into 16-bit millimetres: it is cut off there"
            warnings.warn(f"{what}; take .npy, .pfm or .exr", stacklevel=2)
        millimetres = millimetres.clip(0, most)
        Image.fromarray(millimetres.astype(np.uint16)).save(content, "PNG")
    elif ending == ".pfm":
        Image.fromarray(metres).save(content, "PPM")
    elif ending == ".npy":
        np.save(content, metres, allow_pickle=False)
    else:
        raise UserError(f"depth cannot be written as {ending or 'a file without ending'}", f"take {', '.join(ENDINGS)}")
    return content.getvalue()


def _check_unit(path: str, median: float, whole: bool, most: float) -> None:
    """Raise `UserError` for numbers that make sense only in the other unit."""
    if whole and median <= min(most, _PER_METRE / 10):
        what = f"{path} has whole numbers around {median:g}, which look like metres"
        raise UserError(what, "16-bit files are read as millimetres: multiply by 1000, or store floats in metres")
    if not whole and most < median <= most * _PER_METRE:
        what = f"{path} has numbers around {median:g}, which look like millimetres"
        raise UserError(what, f"floats are read as metres, here up to {most:g}: divide by 1000, or give another range")


def _read_for_picture(pairs: Pairs, i: int, limits: tuple[float, float]) -> DepthMap:
    depth = read_depth(pairs.map_file(i), limits)
    pairs.check_size(i, depth.shape)
    return depth


def _read_exr(file: MapFile) -> DepthMap:
    try:
        return read_exr(file.load())
    except UnreadableError as problem:
        raise UserError(f"{file.name} {problem.finding.reason}", problem.finding.hint) from None


def _report(pairs: Pairs, known: Sequence[int], limits: tuple[float, float]) -> None:
    empty = len(pairs) - len(known)
    between = f"between {limits[0]:g} and {limits[1]:g} m"
    if not known:
        raise UserError(f"no depth map of {pairs.name} has depth {between}", "check the maps, or give another range")
    if empty:
        first = next(i for i in range(len(pairs)) if i not in known)
        others = f" and {empty - 1} more" if empty > 1 else ""
        what = f"{pairs.map_file(first).name}{others} left out: no depth {between}"
        warnings.warn(what, stacklevel=3)
