"""Discoveries as files: `dinokit discover`. For each picture NAME a drawing or a map, and one file with all boxes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from dinokit.checkpoints.folders import make_folder
from dinokit.data.track import Track
from dinokit.data.video import Video, is_video, open_video
from dinokit.errors import UserError
from dinokit.images.read import ReadError, read
from dinokit.inference.views import expand
from dinokit.tasks.discover import COUNT, Discoverer
from dinokit.tasks.discover_results import (
    ColourMap,
    Discovery,
    Segments,
    SimilarityMap,
    read_found,
    write_coco,
)
from dinokit.tasks.results import each_readable, free_names, save_picture

__all__: list[str] = []

What = Literal["foreground", "segments", "colours", "similar"]
"""What may be sought."""
BOXES = "boxes.json"
_PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
_TOGETHER = 4
"""Pictures that are looked at together, which are held as they are: 72 MB for 24 megapixels."""


@dataclass(frozen=True)
class DiscoverySettings:
    """What is sought in the pictures."""

    what: What = "foreground"
    count: int | None = None
    """Of segments; None: 6."""
    point: tuple[float, float] | None = None
    """(x, y) in pixels to which other places are compared; None: the middle of each picture."""

    def __post_init__(self) -> None:
        if self.what not in get_args(What):
            raise UserError(f"what is {self.what!r}", f"give one of {', '.join(get_args(What))}")
        for name, value, owner in (("--point", self.point, "similar"), ("--count", self.count, "segments")):
            if value is not None and self.what != owner:
                raise UserError(f"{name} says nothing about {self.what}", f"leave it out, or take --what {owner}")


def discover_files(
    discoverer: Discoverer,
    pictures: Sequence[str],
    out: Path,
    settings: DiscoverySettings,
    warn: Callable[[str], None],
    track: Track,
) -> Iterator[dict[str, Any]]:
    """Write what is found in each of `pictures` into the folder `out` and yield a row about each, in order.

    foreground: NAME-foreground.png (drawn), NAME-mask.png (0 and 255) and, at the end or when stopped, boxes.json with
    the boxes of all in the form of COCO, beside those that it has of other pictures. segments: NAME-segments.png
    (numbers, shown in colours) and NAME-segments-drawn.png. colours and similar: NAME-colours.png, NAME-similar.png.
    Of a video, segments and colours are found in each frame: NAME-00000-colours.png and so on. Pictures that cannot
    be read, or in which nothing stands out, are told to `warn`. Raises `UserError` before the work for a folder that
    cannot be written, and where nothing can be read.
    """
    if out.suffix.lower() in _PICTURE_ENDINGS:
        raise UserError(f"--out {out} is the name of a picture", "name a folder")
    sources = [Path(str(source)) for source in expand(pictures)]
    if settings.what in ("segments", "colours"):
        if len(sources) == 1 and is_video(sources[0]):
            yield from _discover_frames(discoverer, sources[0], out, settings, track)
            return
        videos = [source for source in sources if is_video(source)]
        if videos:
            raise UserError(f"{videos[0]} is a video among others", "give one video alone, or pictures")
        sources = _readable(sources, warn)
    boxes = read_found(out / BOXES) if settings.what == "foreground" else {}
    names = {path: one.name for path, one in boxes.items() if one.name}
    new = [source for source in dict.fromkeys(sources) if str(source) not in names]
    given = free_names(new, out, _ENDINGS[settings.what], tuple(names.values()))
    names |= dict(zip(map(str, new), given, strict=True))
    try:
        for i, result in track(_results(discoverer, sources, settings, warn), len(sources), "discovering"):
            path = str(sources[i])
            row: dict[str, Any] = {"path": path, "files": _write(result, out, names[path])}
            if isinstance(result, Discovery):
                boxes[path] = replace(result.found, name=names[path])
                row |= {"boxes": result.boxes.round(2).tolist(), "scores": result.box_scores.round(4).tolist()}
                if not len(result.boxes):
                    warn(f"nothing stands out in {path}")
            yield row
    finally:  # whatever ends the work, what was found is kept
        if boxes:
            write_coco(out / BOXES, boxes)


def _discover_frames(
    discoverer: Discoverer, source: Path, out: Path, settings: DiscoverySettings, track: Track
) -> Iterator[dict[str, Any]]:
    """A row about each frame of a video."""
    video = open_video(source)
    make_folder(out)
    results = track(_of_set(discoverer, video, settings), video.count, "discovering")
    for number, result in enumerate(results):
        files = _write(result, out, f"{source.stem}-{number:05d}")
        yield {"path": str(source), "frame": number, "files": files}


_ENDINGS = {
    "foreground": ("-foreground.png", "-mask.png"),
    "segments": ("-segments-drawn.png", "-segments.png"),
    "colours": ("-colours.png",),
    "similar": ("-similar.png",),
}
"""Of the files that a picture gets."""


def _results(
    discoverer: Discoverer, sources: Sequence[Path], settings: DiscoverySettings, warn: Callable[[str], None]
) -> Iterator[tuple[int, Any]]:
    """The number and the result of each picture; those that cannot be looked at alone are told to `warn`."""
    if settings.what == "foreground":
        return each_readable(discoverer.predict_each, sources, warn, _TOGETHER)
    if settings.what == "similar":
        return each_readable(lambda part: (discoverer.similar(one, settings.point) for one in part), sources, warn)
    return enumerate(_of_set(discoverer, sources, settings))


def _of_set(discoverer: Discoverer, pictures: Sequence[Path] | Video, settings: DiscoverySettings) -> Iterator[Any]:
    """What has one number or colour in all pictures."""
    if settings.what == "colours":
        return discoverer.colours_each(pictures)
    return discoverer.segments_each(pictures, COUNT if settings.count is None else settings.count)


def _write(result: Discovery | Segments | ColourMap | SimilarityMap, out: Path, name: str) -> list[str]:
    """Write the files of one picture and return their paths."""
    if isinstance(result, Discovery):
        paths = [out / f"{name}-foreground.png", out / f"{name}-mask.png"]
        save_picture(paths[0], result.draw())
        result.save(paths[1])
    elif isinstance(result, Segments):
        paths = [out / f"{name}-segments-drawn.png", out / f"{name}-segments.png"]
        save_picture(paths[0], result.draw())
        result.save(paths[1])
    else:
        paths = [out / f"{name}-{'colours' if isinstance(result, ColourMap) else 'similar'}.png"]
        result.save(paths[0])
    return [str(path) for path in paths]


def _readable(sources: Sequence[Path], warn: Callable[[str], None]) -> list[Path]:
    """Those that can be read: segments and colours of a set need to know before they begin."""
    kept, failures = [], []
    for source in sources:
        try:
            read(source)
            kept.append(source)
        except ReadError as error:
            failures.append(error)
    if not kept:
        raise failures[0]
    for failure in failures:
        warn(f"{failure.message}; skipped")
    return kept
