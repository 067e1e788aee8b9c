"""`dinokit match`: which places of two pictures show the same."""

from pathlib import Path
from typing import Any

from dinokit.cli.models import AUTO, BUNDLED, Model, Opening
from dinokit.cli.options import Flag, Json, Layers, Out, Pixels
from dinokit.cli.verb import JOBS, Verb
from dinokit.errors import UserError

VERB = Verb(
    "match",
    JOBS,
    5,
    "Find the places of two pictures that show the same.",
    (
        "dinokit match left.jpg right.jpg --out matches.png",
        "dinokit match front.jpg side.jpg --homography --out plane.png",
        "dinokit match left.jpg right.jpg --point 320 240 --point 90 410",
    ),
    "Or how a flat thing moved between them (--homography), or where single points went (--point).",
)


def match(
    first: str,
    second: str,
    /,
    *,
    out: Out | None = None,
    homography: Flag = False,
    point: list[tuple[float, float]] | None = None,
    model: Model = BUNDLED,
    size: Pixels | None = None,
    layers: Layers | None = None,
    ratio: float | None = None,
    refine: bool = True,
    opening: Opening = AUTO,
    json: Json = False,
) -> None:
    """Find the places of two pictures that show the same.

    Parameters
    ----------
    first
        A picture.
    second
        Another picture.
    out
        What to write: both pictures with lines (.png, .jpg), a table of the points (.csv) or arrays (.npz); without it
        matches.png, homography.png or points.png.
    homography
        Find the homography of a flat scene, or of two views from one place; needs pip install dinokit[geometry].
    point
        X Y in pixels of the first picture: where is it in the second? May be given several times.
    size
        Short side in pixels at which the pictures are looked at; larger is finer and takes longer.
    layers
        Blocks whose features are compared, negative from the end; without it, map_layer of the model
        (dinokit info).
    ratio
        Keep matches whose distance is at most this share of the next best one's; 1 keeps all.
    refine
        Search places on the pixels around what the features say.
    json
        Print one JSON object: matches; or matrix, inliers, matches; or points, x1 y1 x2 y2 score of each.
    """
    from dinokit.cli.output import put_result
    from dinokit.tasks.match import RATIO, SIZE, Matcher
    from dinokit.tasks.match_results import ENDINGS
    from dinokit.tasks.results import check_out

    out = out or Path("points.png" if point else "homography.png" if homography else "matches.png")
    check_out(out, ENDINGS, [first, second])
    if homography and point:
        raise UserError("--homography and --point were both given", "run the command twice")
    kept = RATIO if ratio is None else ratio
    matcher = Matcher(opening.backbone(model), size or SIZE, layers or (), kept, refine)
    result: Any = matcher.locate(point, first, second) if point else None
    if result is None:
        result = matcher.homography(first, second) if homography else matcher.predict(first, second)
    result.save(out)
    put_result(result.to_row(), f"{result.describe()}\nwritten to {out}", json)
