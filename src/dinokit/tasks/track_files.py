"""A video in, its objects out: a folder with a label PNG for each frame, or a video to look at.

A folder can be continued: what is remembered of the frames is stored beside the labels now and then, so that the same
command goes on near where it stopped, however it was stopped, and ends with the same labels. At the end it is removed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from dinokit.checkpoints.folders import hold
from dinokit.checkpoints.save import save_tensors, write_atomically
from dinokit.data.listing import find_pictures
from dinokit.data.object_masks import Labels, read_objects
from dinokit.data.track import Track
from dinokit.data.video import VIDEO_SUFFIXES, Video, open_video, video_writer
from dinokit.errors import UserError
from dinokit.heads.propagate import Memory
from dinokit.inference.jobs import check_unused, claim
from dinokit.tasks.results import check_out
from dinokit.tasks.track import Following, Tracker

STATE = ".state.safetensors"
DONE = ".done.json"
_STORE_EVERY = 50


def write_tracks(
    tracker: Tracker, source: str, mask: str, out: Path, track: Track, say: Callable[[str], None]
) -> dict[str, Any]:
    """Follow the objects of `mask` through the video `source`.

    out: a folder for label PNGs, named as the frames are or by their numbers; or a video, FILE.mp4 or FILE.mkv, with
    the objects in colour. `say` is told of work that is continued. Returns `frames`, `continued` (those that an
    earlier run had done), `objects` and `out`. Raises `UserError` before the work for anything that would make it
    fail.
    """
    video, labels = open_video(source), read_objects(mask)
    following = Following(tracker, labels)
    if out.suffix.lower() in VIDEO_SUFFIXES:
        check_out(out, tuple(VIDEO_SUFFIXES), [source, mask])
        frames, continued = _write_video(following, video, out, track), 0
    else:
        if out.suffix and not out.is_dir():
            raise UserError(f"{out} is no video that can be written", "let it end in .mp4 or .mkv, or name a folder")
        check_unused(out)  # frames, say, which labels of their names would replace
        with hold(out, "tracking"):
            claim(out, _describe(tracker, source, labels))
            frames = continued = _finished(out, video)
            if not frames:
                continued = _restore(following, out / STATE)
                if continued:
                    say(f"going on after {continued} frames")
                frames = _write_folder(following, video, out, track)
    return {"frames": frames, "continued": continued, "objects": len(following.objects), "out": str(out)}


def _write_video(following: Following, video: Video, out: Path, track: Track) -> int:
    with video_writer(out, video.rate) as write:
        for frame in track(following.through(video), video.count, "frames"):
            write(frame.draw())
    return following.seen


def _write_folder(following: Following, video: Video, out: Path, track: Track) -> int:
    for frame in track(following.through(video), video.count, "frames", following.seen):
        name = video.names[frame.number] if video.names else f"{frame.number:05d}"
        frame.save(out / f"{name}.png")
        if following.seen % _STORE_EVERY == 0:
            _store(following, out / STATE)
    write_atomically(out / DONE, json.dumps({"frames": following.seen, "count": video.count}).encode())
    (out / STATE).unlink(missing_ok=True)  # it is large
    return following.seen


def _finished(folder: Path, video: Video) -> int:
    """How many frames a folder has that is finished; 0 where it is not, or the video has another length now."""
    try:
        done = json.loads((folder / DONE).read_text(encoding="utf-8"))
        return int(done["frames"]) if done["count"] == video.count else 0
    except (OSError, ValueError, TypeError, KeyError):
        return 0


def _describe(tracker: Tracker, source: str, labels: Labels) -> dict[str, Any]:
    """What makes two jobs the same."""
    info, settings = tracker.backbone.info, tracker.settings
    return {
        "video": os.path.abspath(source),
        "frames_sha256": _stamp(source),
        "mask_sha256": hashlib.sha256(f"{labels.shape}".encode() + labels.tobytes()).hexdigest(),
        "model": info.name,
        "weights_sha256": info.weights_sha256,
        "precision": str(tracker.backbone.dtype).removeprefix("torch."),
        "size": str(tracker.look.size),
        "settings": {**vars(settings), "smooth": tracker.smooth},
    }


def _stamp(source: str) -> str:
    """What changes with the file of a video, or with its frames: names, sizes and times."""
    files = [source] if os.path.isfile(source) else find_pictures(source)
    stamps = [(os.path.basename(file), (about := os.stat(file)).st_size, about.st_mtime_ns) for file in files]
    return hashlib.sha256(repr(stamps).encode()).hexdigest()


def _store(following: Following, path: Path) -> None:
    memory = following.memory
    if memory is not None:
        seen = torch.tensor(memory.seen)
        save_tensors(path, {"vectors": memory.vectors, "values": memory.values, "seen": seen})


def _restore(following: Following, path: Path) -> int:
    """Take up what an earlier run remembered; how many frames it had done, 0 where it left nothing that can be used."""
    try:
        found = load_file(path, str(following.tracker.backbone.device))
        following.memory = Memory.restore(
            found["vectors"], found["values"], int(found["seen"]), following.tracker.settings
        )
    except (OSError, SafetensorError, KeyError):
        return 0
    return following.seen
