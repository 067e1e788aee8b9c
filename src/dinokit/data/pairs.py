"""Pictures with a map beside each: masks of classes, depths, anything with one number a pixel.

SOURCE/images/NAME.jpg and SOURCE/masks/NAME.png, with the folders under any of the usual names; a CSV file with the
columns of both paths, relative to it; or a COCO file (`data.coco`). `classes.txt`, in SOURCE or beside it, names the
classes: one a line, from 0.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from dinokit.data.coco import BACKGROUND, Coco, read_coco
from dinokit.data.folder import Files
from dinokit.data.listing import find_pictures
from dinokit.errors import UserError
from dinokit.images.maps import read_map
from dinokit.images.read import size

IMAGES = ("images", "image", "imgs", "rgb", "JPEGImages", "leftImg8bit")
MASKS = ("masks", "mask", "labels", "label", "annotations", "SegmentationClass", "gt")
DEPTHS = ("depth", "depths", "gt")
_MAP_SUFFIXES = (".png", ".tif", ".tiff", ".npy", ".bmp", ".pfm", ".exr")


class Pairs(Files):
    """Pictures and the path of the map that belongs to each; a set of `Pictures`."""

    def __init__(self, pictures: Sequence[Path], maps: Sequence[Path], name: str, classes: Sequence[str] = ()) -> None:
        super().__init__(pictures, name)
        self.maps = list(maps)
        self.class_names = tuple(classes)
        """Names of the values of the maps, from `classes.txt`; empty without it."""

    def part(self, indices: Sequence[int]) -> Pairs:
        """The pairs with these numbers."""
        pictures, maps = ([paths[i] for i in indices] for paths in (self.paths, self.maps))
        return Pairs(pictures, maps, self.name, self.class_names)

    def read_map(self, i: int, ignore: int) -> NDArray[Any]:
        """The map of picture `i`, [H, W] of the picture's size; `ignore` is the value that counts for nothing.

        Raises `UserError` naming the file for one that cannot be read or has another size.
        """
        values = read_map(self.maps[i])
        height, width = size(self.paths[i])
        if values.shape != (height, width):
            what = f"{self.maps[i]} is {values.shape[1]} x {values.shape[0]} px, its picture {width} x {height}"
            raise UserError(what, "give maps of the picture's size")
        return values


class CocoPairs(Pairs):
    """The pictures of a COCO file; their maps are drawn from its instances."""

    def __init__(self, coco: Coco, indices: Sequence[int] | None = None) -> None:
        self.coco, self.indices = coco, list(range(len(coco.pictures)) if indices is None else indices)
        paths = [coco.pictures[i].path for i in self.indices]
        super().__init__(paths, [coco.path] * len(paths), str(coco.path), (BACKGROUND, *coco.categories))

    def part(self, indices: Sequence[int]) -> CocoPairs:
        """The pairs with these numbers."""
        return CocoPairs(self.coco, [self.indices[i] for i in indices])

    def read_map(self, i: int, ignore: int) -> NDArray[Any]:
        """The class of every pixel of picture `i`, `ignore` in crowds."""
        values = self.coco.classes(self.indices[i], ignore)
        height, width = size(self.paths[i])
        if values.shape != (height, width):
            what = f"{self.coco.path} says that {self.paths[i].name} is {values.shape[1]} x {values.shape[0]} px"
            raise UserError(what, f"it is {width} x {height}: give the pictures of this file")
        return values


def open_pairs(source: str | os.PathLike[str], kinds: Sequence[str] = MASKS) -> Pairs:
    """Open a folder, a CSV or a COCO file of pairs; `kinds`: the names that the folder of maps may have.

    Raises `UserError` for what is missing, naming folder, file or line; pictures without a map are refused.
    """
    path = Path(source)
    if path.suffix.lower() == ".json":
        return CocoPairs(read_coco(path))
    if path.suffix.lower() == ".csv":
        pairs = list(_read_csv(path))
    elif path.is_dir():
        pairs = _match(_folder(path, IMAGES), _folder(path, kinds))
    else:
        what = f"{path} is not found" if not path.exists() else f"{path} is no folder, CSV or COCO file"
        raise UserError(what, f"give a folder with images/ and {kinds[0]}/")
    if not pairs:
        raise UserError(f"{path} has no pictures", f"put them into images/ and their maps into {kinds[0]}/")
    pictures, maps = zip(*pairs, strict=True)
    return Pairs(pictures, maps, str(path), _class_names(path))


def hold_out(pairs: Pairs, seed: int) -> tuple[list[int], list[int]]:
    """Numbers of the pictures, a tenth apart, at least one: (the others, the tenth). `UserError` for fewer than two."""
    if len(pairs) < 2:
        raise UserError(f"{pairs.name} has one picture", "give two at least, or name others for validation")
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed)).tolist()
    tenth = max(len(pairs) // 10, 1)
    return sorted(order[tenth:]), sorted(order[:tenth])


def _folder(path: Path, names: Sequence[str]) -> Path:
    found = [path / name for name in names if (path / name).is_dir()]
    if not found:
        raise UserError(f"{path} has no folder {names[0]}/", f"it may also be called {', '.join(names[1:])}")
    return found[0]


def _match(images: Path, maps: Path) -> list[tuple[Path, Path]]:
    """Each picture with the map of its name, in whatever folder below."""
    found: dict[str, Path] = {}
    for file in sorted(maps.rglob("*")):
        if file.suffix.lower() in _MAP_SUFFIXES and not file.name.startswith("."):
            found[file.relative_to(maps).with_suffix("").as_posix()] = file
    pairs = []
    for picture in find_pictures(images):
        name = picture.relative_to(images).with_suffix("").as_posix()
        if name not in found:
            raise UserError(f"{picture} has no map in {maps}", f"add {maps / name}.png, or remove the picture")
        pairs.append((picture, found[name]))
    return pairs


def _read_csv(path: Path) -> Iterator[tuple[Path, Path]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file)
            header = next(rows, [])
            if len(header) < 2:
                raise UserError(f"{path} has no two columns", "the first line names them, such as image,mask")
            for number, row in enumerate(rows, 2):
                if not row:
                    continue
                files = [path.parent / name for name in row[:2]]
                missing = [file for file in files if not file.is_file()]
                if len(files) < 2 or missing:
                    what = f"{missing[0]} is not found" if missing else "there is one column only"
                    raise UserError(f"{path}, line {number}: {what}", "give two paths, relative to the CSV file")
                yield files[0], files[1]
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        raise UserError(f"{path} cannot be read ({problem})", "check that it is a CSV file in UTF-8") from None


def _class_names(path: Path) -> tuple[str, ...]:
    for folder in (path, path.parent):
        names = folder / "classes.txt"
        if folder.is_dir() and names.is_file():
            try:
                return tuple(line.strip() for line in names.read_text(encoding="utf-8").splitlines() if line.strip())
            except (OSError, UnicodeDecodeError) as problem:
                raise UserError(f"{names} cannot be read ({problem})", "it names a class a line") from None
    return ()
