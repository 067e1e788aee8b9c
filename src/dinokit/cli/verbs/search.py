"""`dinokit search`: pictures that look like a picture, among those of a table of embeddings."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from dinokit.cli.models import AUTO, BUNDLED, Model, Opening
from dinokit.cli.options import Json, Out, Whole
from dinokit.cli.verb import JOBS, Verb

VERB = Verb(
    "search",
    JOBS,
    2,
    "Find the pictures of a table of embeddings that look most like a picture.",
    (
        "dinokit search street.jpg --in photos.parquet --out similar.jpg",
        "dinokit search street.jpg --in photos.parquet --k 20 --rerank 50 --json",
    ),
    "The table is what `dinokit embed` wrote; for a collection that grows see `dinokit index`.",
)


def search(
    queries: list[str],
    /,
    *,
    table: Annotated[Path, Parameter(name="--in")],
    k: Whole | None = None,
    rerank: Whole = 0,
    out: Out | None = None,
    tokens: Literal["cls", "mean", "cls+mean"] | None = None,
    whiten: bool = True,
    model: Model = BUNDLED,
    opening: Opening = AUTO,
    json: Json = False,
) -> None:
    """Find the pictures of a table of embeddings that look most like a picture.

    Parameters
    ----------
    queries
        Pictures, folders or patterns.
    table
        The table, FILE.parquet, made by dinokit embed with the same model.
    k
        Number of pictures to find; without it 12, or all where there are fewer.
    rerank
        Compare this many of the first hits patch by patch, and put them in that order.
    out
        Also write a sheet of pictures, FILE.jpg or .png, or FILE.json or .csv.
    tokens
        Which vectors of the table are compared; without it, the class token where the table has it.
    whiten
        Scale down the directions in which the pictures of the table differ most.
    json
        Print one JSON object: searches, for each the query and its hits (path, similarity, width, height, patches).
    """
    from dinokit.cli.output import track
    from dinokit.cli.searching import answer
    from dinokit.inference.views import expand
    from dinokit.tasks.hits import ENDINGS
    from dinokit.tasks.results import check_out
    from dinokit.tasks.retrieve import Collection

    pictures = expand(queries)
    if out is not None:
        check_out(out, ENDINGS, [*pictures, table])
    collection = Collection(table, opening.backbone(model), tokens=tokens, whiten=whiten, track=track)
    if out is not None:
        collection.check_out(out)
    answer(lambda picture: collection.search(picture, k, rerank), pictures, out, json)
