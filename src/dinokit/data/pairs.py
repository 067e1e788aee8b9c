"""Pictures with a map beside each: masks of classes, depths, anything with one number a pixel.

SOURCE/images/NAME.jpg and SOURCE/masks/NAME.png, with the folders under any of the usual names; a CSV file with the
columns of both paths, relative to it; a COCO file (`data.coco`); or tar shards with KEY.jpg and KEY.mask.png.
`classes.txt`, in SOURCE or beside it, names the classes: one a line, from 0.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from dinokit.data.class_names import read_class_names
from dinokit.data.coco import BACKGROUND, Coco, read_coco
from dinokit.data.folder import Files
from dinokit.data.listing import SkippedFiles, find_pictures, is_shard, resolve
from dinokit.data.picture_table import read_lines
from dinokit.data.pictures import Pictures, Subset
from dinokit.data.shards import Shards
from dinokit.errors import UserError
from dinokit.images.maps import MapFile, read_map
from dinokit.images.read import Picture, read, size

IMAGES = ("images", "image", "imgs", "rgb", "JPEGImages", "leftImg8bit")
MASKS = ("masks", "mask", "labels", "label", "annotations", "SegmentationClass", "seg", "gt")
DEPTHS = ("depth", "depths", "gt")
_MAP_SUFFIXES = (".png", ".tif", ".tiff", ".npy", ".bmp", ".pfm", ".exr")


class Pairs(Subset):
    """Some of a set of pictures, each with the map that belongs to it; a set of `Pictures`."""

    def __init__(
        self,
        pictures: Pictures,
        maps: Sequence[MapFile],
        classes: Sequence[str] = (),
        indices: Sequence[int] | None = None,
    ) -> None:
        super().__init__(pictures, range(len(pictures)) if indices is None else indices)
        self.maps = list(maps)
        """Of all pictures of the set."""
        self.class_names = tuple(classes)
        """Names of the values of the maps, from `classes.txt`; empty without it."""

    def part(self, places: Sequence[int]) -> Pairs:
        """Some of these pairs."""
        return Pairs(self.pictures, self.maps, self.class_names, [self.indices[i] for i in places])

    def map_file(self, i: int) -> MapFile:
        """The map of picture `i`."""
        return self.maps[self.indices[i]]

    def read_map(self, i: int, ignore: int) -> NDArray[Any]:
        """The map of picture `i`, [H, W] of the picture's size; `ignore` is the value that counts for nothing.

        Raises `UserError` naming the file for one that cannot be read or has another size.
        """
        values = read_map(self.map_file(i))
        self.check_size(i, values.shape)
        return values

    def check_size(self, i: int, shape: tuple[int, ...]) -> None:
        """Raise `UserError` naming the map of picture `i`, of this shape, if its picture has another size."""
        height, width = size(self.read_bytes(i), self.place(i))
        if shape != (height, width):
            what = f"{self.map_file(i).name} is {shape[1]} x {shape[0]} px, its picture {width} x {height}"
            raise UserError(what, "give maps of the picture's size")

    def decoded(self, channels: int) -> Sequence[Picture]:
        """The pictures, each read when it is asked for."""
        return _Decoded(self, channels)


class _Decoded(Sequence[Picture]):
    def __init__(self, pairs: Pairs, channels: int) -> None:
        self.pairs, self.channels = pairs, channels

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, places: Any) -> Any:
        if isinstance(places, slice):
            return [self[i] for i in range(*places.indices(len(self)))]
        return read(self.pairs.read_bytes(places), self.pairs.place(places), channels=self.channels)


class CocoPairs(Pairs):
    """The pictures of a COCO file; their maps are drawn from its instances."""

    def __init__(self, coco: Coco, indices: Sequence[int] | None = None) -> None:
        self.coco = coco
        pictures = Files([picture.path for picture in coco.pictures], str(coco.path))
        maps = [MapFile.of(coco.path)] * len(pictures)
        super().__init__(pictures, maps, (BACKGROUND, *coco.categories), indices)

    def part(self, places: Sequence[int]) -> CocoPairs:
        """Some of these pairs."""
        return CocoPairs(self.coco, [self.indices[i] for i in places])

    def read_map(self, i: int, ignore: int) -> NDArray[Any]:
        """The class of every pixel of picture `i`, `ignore` in crowds."""
        values = self.coco.classes(self.indices[i], ignore)
        height, width = size(self.read_bytes(i), self.place(i))
        if values.shape != (height, width):
            what = f"{self.coco.path} says that {self.place(i)} is {values.shape[1]} x {values.shape[0]} px"
            raise UserError(what, f"it is {width} x {height}: give the pictures of this file")
        return values


def open_pairs(source: str | os.PathLike[str], kinds: Sequence[str] = MASKS) -> Pairs:
    """Open a folder, a CSV or a COCO file, or shards of pairs; `kinds`: the names that maps may have.

    Warns of members of shards that cannot be used. Raises `UserError` for what is missing, naming folder, file or line;
    pictures without a map are refused.
    """
    path = Path(source)
    if is_shard(path):
        return _open_shards(resolve(source, set()), str(path), kinds)
    if path.suffix.lower() == ".json":
        return CocoPairs(read_coco(path))
    if path.suffix.lower() == ".csv":
        pairs = list(_read_csv(path))
    elif path.is_dir():
        pairs = _match(_folder(path, IMAGES), _folder(path, kinds))
    else:
        what = f"{path} is not found" if not path.exists() else f"{path} is no folder, CSV or COCO file, and no shard"
        raise UserError(what, f"give a folder with images/ and {kinds[0]}/")
    if not pairs:
        raise UserError(f"{path} has no pictures", f"put them into images/ and their maps into {kinds[0]}/")
    pictures, maps = zip(*pairs, strict=True)
    return Pairs(Files(pictures, str(path)), [MapFile.of(file) for file in maps], _class_names(path))


def _open_shards(paths: Sequence[Path], name: str, kinds: Sequence[str]) -> Pairs:
    """Shards with members KEY.jpg and KEY.mask.png: the map's name is one of `kinds`, its ending one of maps."""
    skipped, companions = SkippedFiles(), {f"{kind.lower()}{ending}" for kind in kinds for ending in _MAP_SUFFIXES}
    shards = Shards(paths, name, skipped, companions)
    skipped.warn(name)
    lonely = [i for i in range(len(shards)) if not shards.has_companion(i)]
    if lonely:
        raise UserError(f"{shards.place(lonely[0])} has no map beside it", f"call it KEY.{kinds[0].rstrip('s')}.png")
    maps = [MapFile(shards.companion_place(i), partial(shards.read_companion, i)) for i in range(len(shards))]
    return Pairs(shards, maps, _class_names(paths[0]))


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
    for line in read_lines(path, "give two paths, relative to the CSV file"):
        own = path.parent / line.values[0]
        if not own.is_file():
            raise UserError(f"{line.place}: {own} is not found", "paths start at the CSV file")
        yield line.picture, own


def _class_names(path: Path) -> tuple[str, ...]:
    for folder in (path, path.parent):
        names = folder / "classes.txt"
        if folder.is_dir() and names.is_file():
            return read_class_names(names)
    return ()
