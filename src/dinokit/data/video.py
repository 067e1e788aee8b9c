"""Frames of a video, one after another: a video file (by PyAV), a folder or list of pictures, or arrays as they come.

A video is never held as a whole. Frames are upright (phones store them lying and a note that says so), and what a
damaged file still has is used: what was lost is said in a `VideoWarning`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from dinokit.data.listing import find_pictures, is_picture, no_pictures
from dinokit.errors import UserError
from dinokit.images.kinds import VIDEO, UnreadableError, explain
from dinokit.images.pixels import Pixels, check_size
from dinokit.images.read import Picture, ReadError, Source, read

VIDEO_SUFFIXES = frozenset({".mp4", ".mkv"})
"""What videos are written as."""
RATE = 24.0
"""Frames a second of what does not say its own."""

VideoSource = str | os.PathLike[str] | Iterable[Source]
"""A video file, a folder or pattern of pictures in the order of their names, or pictures one after another."""


class VideoWarning(UserWarning):
    """Parts of a video could not be read."""


@dataclass(frozen=True)
class Video:
    """The frames of one video, read while they are iterated over."""

    name: str
    count: int
    """How many frames there are; of a video file what it says of itself; 0: not known."""
    rate: float
    """Frames a second."""
    names: tuple[str, ...]
    """Of the files of a folder or list, without extension; empty for others."""
    open: Callable[[], Iterator[Picture]]

    def __iter__(self) -> Iterator[Picture]:
        """The frames, uint8 [H, W, 3], all of one size; `UserError` where one has another."""
        first: tuple[int, ...] = ()
        for number, frame in enumerate(self.open()):
            first = first or frame.shape
            if frame.shape != first:
                name = self.names[number] if self.names else str(number)
                sizes = f"{frame.shape[1]} x {frame.shape[0]} px where the first has {first[1]} x {first[0]}"
                raise UserError(f"frame {name} of {self.name} has {sizes}", "cut the video there")
            yield frame
        if not first:
            raise UserError(f"{self.name} has no frame", "give at least one")


def open_video(source: VideoSource) -> Video:
    """Open a video, and look at nothing but its head. Raises `UserError` for what is none."""
    if not isinstance(source, (str, os.PathLike)):
        return _of_pictures(source)
    if os.path.isfile(source):
        return _of_file(Path(source))
    others: set[Path] = set()
    paths = find_pictures(source, others)
    if not paths:
        raise no_pictures(os.fspath(source), others)
    return _of_paths(os.fspath(source), paths)


def is_video(source: object) -> bool:
    """Whether `source` is the path of a video file, told from its first bytes."""
    if not isinstance(source, (str, os.PathLike)) or not os.path.isfile(source):
        return False
    try:
        with open(source, "rb") as file:
            return explain(file.read(512)) == VIDEO
    except OSError:  # whoever reads it as a picture says why
        return False


def _of_pictures(pictures: Iterable[Source]) -> Video:
    if isinstance(pictures, Sequence) and pictures and all(isinstance(one, (str, os.PathLike)) for one in pictures):
        return _of_paths("the list", [Path(os.fspath(one)) for one in pictures])
    try:
        count = len(pictures)  # type: ignore[arg-type]
    except TypeError:
        count = 0
    return Video("the video", count, RATE, (), lambda: (read(p, f"frame {n}") for n, p in enumerate(pictures)))


def _of_paths(name: str, paths: Sequence[Path]) -> Video:
    stems = tuple(path.stem for path in paths)
    if len(set(stems)) < len(stems):
        double = next(stem for stem in stems if stems.count(stem) > 1)
        raise UserError(f"{name} has two frames that are called {double}", "give the frames of one video")
    return Video(name, len(paths), RATE, stems, lambda: (read(path) for path in paths))


def _of_file(path: Path) -> Video:
    with _opened(path) as (container, stream):
        count, rate = _count(container, stream), float(stream.average_rate or RATE)
    return Video(str(path), count, rate, (), lambda: _decode(path))


def _count(container: Any, stream: Any) -> int:
    """How many frames a stream says that it has, or as many as its duration holds; 0: it says neither."""
    seconds = stream.duration * stream.time_base if stream.duration else (container.duration or 0) / 1e6
    return max(stream.frames or round(seconds * (stream.average_rate or 0)), 0)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """The container and its video stream."""
    av = load_av()
    if is_picture(path) and path.suffix.lower() != ".gif":
        raise UserError(f"{path} is a picture, not a video", "give a video, or a folder with its frames")
    try:
        container = av.open(str(path.absolute()), options={"protocol_whitelist": "file"})
    except (av.FFmpegError, OSError, ValueError):
        raise _no_video(path) from None
    with container:
        streams = [s for s in container.streams.video if not s.disposition & s.disposition.attached_pic]
        if container.format.name.endswith("_pipe") or container.format.name == "image2":
            raise UserError(f"{path} is a picture, not a video", "give a video, or a folder with its frames")
        if not streams:
            raise UserError(f"{path} has no video in it", "give a video, or a folder with its frames")
        with _named(path):
            check_size(streams[0].height, streams[0].width)
        streams[0].thread_type = "AUTO"
        yield container, streams[0]


def _no_video(path: Path) -> UserError:
    """The error for a file that cannot be opened: what it is instead, if its first bytes say so."""
    try:
        with open(path, "rb") as file:
            found = explain(file.read(512))
    except OSError as problem:
        return UserError(f"{path} cannot be read ({problem.strerror})", "check the file and its permissions")
    if found.reason in ("is a video", "is not a picture", "is damaged"):
        return UserError(f"{path} is damaged or no video", "copy or download it again, or give a folder of frames")
    return ReadError(str(path), found)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except UnreadableError as problem:
        raise ReadError(str(path), problem.finding) from None


def _decode(path: Path) -> Iterator[Picture]:
    """Frames of a video file; what cannot be decoded is left out and counted."""
    given, damaged = 0, 0
    with _opened(path) as (container, stream):
        wanted = _count(container, stream)
        for frame in _frames(container, stream):
            damaged += frame is None or frame.is_corrupt
            if frame is not None:
                given += 1
                yield _upright(frame, path)
    if not given:
        raise UserError(f"{path} has no frame that can be decoded", "copy or download it again")
    if damaged or given < 0.9 * wanted:
        warnings.warn(f"{path} is damaged: {given} of {wanted} frames were read", VideoWarning, stacklevel=2)


def _frames(container: Any, stream: Any) -> Iterator[Any]:
    """Decoded frames, and None where there is damage. At the end the decoder gives what it still holds."""
    av = load_av()
    packets = container.demux(stream)
    packet: Any = True
    while packet is not None:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, OSError):
            packet = None
            yield None
        try:
            yield from stream.codec_context.decode(packet)
        except av.EOFError:
            pass
        except av.FFmpegError:
            yield None


def _upright(frame: Any, path: Path) -> Picture:
    """The pixels of a frame, turned as its display matrix says."""
    with _named(path):
        check_size(frame.height, frame.width)
    pixels: Picture = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


@contextmanager
def video_writer(path: Path, rate: float = RATE) -> Iterator[Callable[[Pixels], None]]:
    """Write frames uint8 [H, W, 3] of one size into a video file, H.264 where it can be had.

    The file takes its name at the end; where the work is interrupted it holds the frames up to there. Raises
    `UserError` for another extension than those of `VIDEO_SUFFIXES` and where nothing can be written.
    """
    av = load_av()
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise UserError(f"{path} is no name for a video", f"let it end in {' or '.join(sorted(VIDEO_SUFFIXES))}")
    temporary = path.with_name(f".{path.stem[:60]}.{os.getpid()}.tmp")
    form = "mp4" if path.suffix.lower() == ".mp4" else "matroska"
    try:
        temporary.touch()
    except OSError as problem:
        raise UserError(f"cannot write {path} ({problem.strerror})", "choose another place with --out") from None
    container = av.open(str(temporary.absolute()), "w", format=form)
    stream: Any = None

    def write(frame: Pixels) -> None:
        nonlocal stream
        even = np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")  # H.264's colours
        stream = stream or _add_stream(container, rate, even.shape[:2])
        try:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        except av.FFmpegError as problem:
            raise UserError(f"cannot write {path} ({problem.strerror})", "make room, or choose another --out") from None

    try:
        yield write
    finally:
        try:
            if stream is not None:
                container.mux(stream.encode())
            container.close()
            if stream is not None:
                os.replace(temporary, path)
        except (av.FFmpegError, OSError) as problem:
            raise UserError(f"cannot write {path} ({problem.strerror})", "make room, or choose another --out") from None
        finally:
            temporary.unlink(missing_ok=True)


def _add_stream(container: Any, rate: float, shape: tuple[int, int]) -> Any:
    av = load_av()
    codec, options = ("libx264", {"crf": "20"}) if "libx264" in av.codecs_available else ("mpeg4", {"q": "3"})
    stream = container.add_stream(codec, rate=Fraction(rate).limit_denominator(1001), options=options)
    stream.height, stream.width = shape
    stream.pix_fmt = "yuv420p"
    return stream


def load_av() -> Any:
    """PyAV, silent; `UserError` where it is not installed."""
    try:
        import av
    except ImportError:
        raise UserError("videos need PyAV", "pip install 'dinokit[video]', or give a folder of frames") from None
    av.logging.set_level(None)
    return av
