"""`dinokit match`: which places of two pictures show the same."""

from pathlib import Path

from dinokit.cli.models import AUTO, BUNDLED, Model, Opening
from dinokit.cli.options import Json, Out, Pixels
from dinokit.cli.verb import JOBS, Verb

VERB = Verb(
    "match",
    JOBS,
    50,
    "Find which places of two pictures show the same.",
    (
        "dinokit match left.jpg right.jpg --out matches.png",
        "dinokit match front.jpg side.jpg --homography --out plane.png",
        "dinokit match left.jpg right.jpg --point 320 240 --point 90 410",
    ),
    "With --homography, how a flat scene moved between them; with --point, where single places went.",
)


def match(
    first: str,
    second: str,
    /,
    *,
    out: Out = Path("matches.png"),
    homography: bool = False,
    point: list[tuple[float, float]] | None = None,
    model: Model = BUNDLED,
    size: Pixels | None = None,
    layers: list[int] | None = None,
    ratio: float | None = None,
    refine: bool = True,
    opening: Opening = AUTO,
    json: Json = False,
) -> None:
    """Find which places of two pictures show the same."""
