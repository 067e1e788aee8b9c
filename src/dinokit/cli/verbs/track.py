"""`dinokit track`: objects through a video, from their masks in its first frame."""

from typing import Literal

from dinokit.cli.models import AUTO, BUNDLED, Model, Opening
from dinokit.cli.options import Json, Out, Pixels, Whole
from dinokit.cli.verb import JOBS, Verb

VERB = Verb(
    "track",
    JOBS,
    6,
    "Follow objects through a video from their masks in its first frame.",
    (
        "dinokit track clip.mp4 --mask first.png --out labels",
        "dinokit track frames/ --mask first.png --out seen.mp4",
    ),
    "Nothing is trained. Stopped halfway, a folder of labels keeps what it has; the same command continues.",
)


def track(
    video: str,
    /,
    *,
    mask: str,
    out: Out,
    model: Model = BUNDLED,
    size: Pixels | None = None,
    queue: Whole = 7,
    radius: float = 8,
    shape: Literal["circle", "square"] = "circle",
    neighbours: Whole = 5,
    temperature: float = 0.05,
    smooth: bool = True,
    opening: Opening = AUTO,
    json: Json = False,
) -> None:
    """Follow objects through a video from their masks in its first frame.

    Parameters
    ----------
    video
        A video file (pip install dinokit[video]), or a folder or pattern of pictures in the order of their names.
    mask
        Which pixel of the first frame belongs to which object: an indexed or grey PNG of their numbers, 1 to 254, with
        0 for none; or black and white for a single one.
    out
        A folder for a label PNG of each frame, or FILE.mp4 or FILE.mkv for a video with the objects in colour.
    size
        Short side in pixels at which frames are looked at; larger finds finer edges and takes longer. Without it, 480.
    queue
        Number of last frames that are compared with, beside the first.
    radius
        How far an object may move between them, in patches.
    shape
        What lies within the radius: a circle or a square.
    neighbours
        Number of most similar patches that decide.
    temperature
        How evenly these count; smaller trusts the most similar more.
    smooth
        Interpolate edges between patches; --no-smooth shows whole patches.
    json
        Print one JSON object: frames, continued, objects, out.
    """
    from dinokit.cli import output
    from dinokit.data.video import VIDEO_SUFFIXES
    from dinokit.heads.propagate import PropagateSettings
    from dinokit.tasks.track import SIZE, Tracker
    from dinokit.tasks.track_files import write_tracks

    settings = PropagateSettings(queue, radius, shape, neighbours, temperature)
    tracker = Tracker(opening.backbone(model), size or SIZE, settings, smooth)
    with output.keeping(out, "begins anew" if out.suffix.lower() in VIDEO_SUFFIXES else "continues"):
        summary = write_tracks(tracker, video, mask, out, output.track, output.say)
    count = f"{summary['objects']} object{'s' if summary['objects'] > 1 else ''}"
    output.put_result(summary, f"{count} through {summary['frames']} frames in {out}", json)
