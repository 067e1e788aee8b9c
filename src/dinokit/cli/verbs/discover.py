"""`dinokit discover`: what stands out in pictures, without labels."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from dinokit.cli.models import AUTO, BUNDLED, Model, Opening
from dinokit.cli.options import Flag, Json, Out, Pixels, Whole
from dinokit.cli.verb import JOBS, Verb
from dinokit.errors import UserError

VERB = Verb(
    "discover",
    JOBS,
    7,
    "Find what stands out in pictures, their segments or alike places, without labels.",
    (
        "dinokit discover photos/ --out found",
        "dinokit discover photos/ --out found --what segments --count 8",
        "dinokit discover clip.mp4 --out found --what colours",
        "dinokit discover street.jpg --out found --what similar --point 320 200",
    ),
    "Nothing is trained and no labels are needed.",
)


def discover(
    images: list[str],
    /,
    *,
    out: Out = Path("found"),
    what: Literal["foreground", "segments", "colours", "similar"] = "foreground",
    count: Whole | None = None,
    point: Annotated[tuple[float, float] | None, Parameter(negative=())] = None,
    refine: Flag = False,
    threshold: float | None = None,
    layer: Whole | None = None,
    model: Model = BUNDLED,
    size: Pixels | None = None,
    opening: Opening = AUTO,
    json: Json = False,
) -> None:
    """Find what stands out in pictures, their segments or alike places, without labels.

    Parameters
    ----------
    images
        Pictures, folders or patterns; for segments and colours also one video (pip install dinokit[video]).
    out
        Folder for the results, made if need be: for each picture NAME-foreground.png and NAME-mask.png, with
        boxes.json for all of them; or NAME-segments.png, NAME-colours.png, NAME-similar.png.
    what
        foreground: masks and boxes of what stands out; segments: alike patches, with one number for one kind of thing
        in all pictures; colours: the features as colours, with one colour for one kind in all pictures; similar: how
        alike all places are to --point.
    count
        Number of segments; without it, 6.
    point
        X and Y in pixels, for what is similar; without it, the middle of each picture.
    refine
        Let edges follow those of the pixels (pip install dinokit[edges]).
    threshold
        Cosine above which two patches belong together, for the foreground; without it, the median of the picture.
    layer
        Block whose patches are compared, negative from the end; without it, map_layer of the model (dinokit info).
    size
        Short side in pixels at which the pictures are looked at; larger shows finer maps and takes longer.
    json
        Print one JSON object with the files, and the boxes of the foreground, instead of a line for each file.
    """
    from dinokit.cli.output import print_json, put, track, warn
    from dinokit.tasks.discover import SIZE, Discoverer
    from dinokit.tasks.discover_files import DiscoverySettings, discover_files

    if threshold is not None and what != "foreground":
        raise UserError(f"--threshold says nothing about {what}", "leave it out, or take --what foreground")
    settings = DiscoverySettings(what, count, point)
    discoverer = Discoverer(opening.backbone(model), size or SIZE, layer, threshold, refine)
    rows = discover_files(discoverer, images, out, settings, warn, track)
    if json:
        print_json({"what": what, "out": str(out), "pictures": list(rows)})
        return
    for row in rows:
        for file in row["files"]:
            put(file)
