"""Masks of classes beside pictures: read, checked, and brought to one form, whatever values stand for "nothing"."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from copy import copy

import numpy as np
from numpy.typing import NDArray

from dinokit.data.held import Held
from dinokit.data.pairs import Pairs
from dinokit.data.track import Track, silent
from dinokit.errors import UserError

Mask = NDArray[np.uint8]

IGNORE = 255
"""The label of pixels that count for nothing."""
_IGNORED_NAMES = ("void", "ignore", "unlabelled", "unlabeled")


class Masks(Sequence[Mask]):
    """The masks of pictures, see `read_mask`: all are read and counted at first, and stay in memory as `Held` says."""

    def __init__(self, pairs: Pairs, ignore: int = IGNORE, track: Track = silent, classes: Sequence[str] = ()) -> None:
        self.pairs = pairs
        self._held = Held(lambda i: read_mask(pairs, i, ignore, classes), range(len(pairs)))
        digest, counts = hashlib.sha256(), []
        for mask in track(self._held, len(pairs), "reading masks"):
            counts.append(np.bincount(mask.ravel(), minlength=IGNORE + 1))
            digest.update(mask.tobytes())
        self.digest = digest.hexdigest()
        """Of all values: other masks have another."""
        self.counts = np.stack(counts)
        """[N, 256]: how many pixels of each mask have each value."""

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, i: int) -> Mask:  # type: ignore[override]
        return self._held[i]

    def labelled(self) -> Masks:
        """Those with a pixel that counts; the others are named in a warning. `UserError` where there is none."""
        known = self.counts[:, :IGNORE].any(axis=1)
        if not known.any():
            raise UserError(f"the masks of {self.pairs.name} have no labelled pixel", "give masks with classes")
        if not known.all():
            first, count = self.pairs.map_file(int(known.argmin())).name, int((~known).sum())
            others = f" and {count - 1} more" if count > 1 else ""
            warnings.warn(f"{first}{others} left out: no labelled pixel", stacklevel=3)
        return self.part(np.flatnonzero(known).tolist())

    def part(self, indices: Sequence[int]) -> Masks:
        """Those of some of the pictures."""
        part = copy(self)
        part.pairs, part._held, part.counts = self.pairs.part(indices), self._held.part(indices), self.counts[indices]
        return part


def read_mask(pairs: Pairs, i: int, ignore: int = IGNORE, classes: Sequence[str] = ()) -> Mask:
    """The classes [H, W] of picture `i`; `IGNORE` where the value is that or `ignore`, or of a class called void.

    classes: whose numbers are given, found by name where both sides have names; empty: numbers as stored. Raises
    `UserError` naming the file for values that are no classes or not among these, and for another size than the
    picture's.
    """
    values = pairs.read_map(i, ignore)
    counting = values[(values != ignore) & (values != IGNORE)]
    if values.dtype.kind == "f" or (counting < 0).any() or (counting > IGNORE).any():
        what = f"{pairs.map_file(i).name} has values from {values.min()} to {values.max()}"
        raise UserError(what, f"classes are whole numbers from 0 to {IGNORE - 1}, {IGNORE} counts for nothing")
    ignored = [n for n, name in enumerate(pairs.class_names) if name.lower() in _IGNORED_NAMES]
    mask = np.where(np.isin(values, [ignore, *ignored]), IGNORE, values).astype(np.uint8)
    return _renumber(mask, pairs.class_names, classes, pairs.map_file(i).name) if classes else mask


def name_classes(masks: Masks) -> tuple[str, ...]:
    """Names of the classes, up to the last that occurs. `UserError` for fewer than two, or fewer names than classes."""
    pairs, present = masks.pairs, np.flatnonzero(masks.counts.sum(0)[:IGNORE])
    if len(present) < 2:
        found = "no class" if not len(present) else f"the one class {present[0]}"
        raise UserError(f"the masks of {pairs.name} have {found}", "segmentation needs two classes or more")
    count = int(present[-1]) + 1
    if not pairs.class_names:
        return tuple(f"class {n}" for n in range(count))
    if count > len(pairs.class_names):
        what = f"the masks of {pairs.name} have the class {present[-1]}, classes.txt names {len(pairs.class_names)}"
        raise UserError(what, "add a line for each class")
    return pairs.class_names[:count]


def _renumber(mask: Mask, names: Sequence[str], classes: Sequence[str], where: str) -> Mask:
    """The mask with the numbers of `classes`. `UserError` naming `where` for a class that is not among them."""
    found = _numbers_among(classes, names)[mask]
    strange = mask[found < 0]
    if len(strange):
        least = int(strange.min())
        name = repr(names[least]) if least < len(names) else least
        what = f"{where} has the class {name}, which the masks of the training do not have"
        raise UserError(what, "give both sets the same classes")
    return found.astype(np.uint8)


def _numbers_among(classes: Sequence[str], names: Sequence[str]) -> NDArray[np.int16]:
    """The number among `classes` of each value of masks, [256], where `names` are those of the values; -1 for none."""
    unnamed = all(name in (str(n), f"class {n}") for n, name in enumerate(classes))
    table = np.full(IGNORE + 1, -1, np.int16)
    table[IGNORE] = IGNORE
    if unnamed or not names or tuple(names[: len(classes)]) == tuple(classes):
        table[: len(classes)] = range(len(classes))
    else:
        numbers = {name: n for n, name in enumerate(classes)}
        for value, name in enumerate(names[:IGNORE]):
            table[value] = numbers.get(name, -1)
    return table
