"""`dinokit index`: a collection of pictures that grows, and is searched by pictures and filters."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from dinokit.cli.models import AUTO, BUNDLED, Model, Opening
from dinokit.cli.options import Flag, Json, Out, Whole
from dinokit.cli.verb import JOBS, Verb

VERB = Verb(
    "index",
    JOBS,
    2,
    "Keep a growing collection of pictures and search it (pip install dinokit[index]).",
    (
        "dinokit index build photos.index --from photos.parquet",
        "dinokit index add photos.index new-photos/",
        'dinokit index search photos.index street.jpg --where "width > 512"',
        "dinokit index dedupe photos.index --out duplicates.jpg",
    ),
    parts=(
        ("build", "Make an index of the pictures of a table of embeddings."),
        ("add", "Add pictures, or renew them."),
        ("remove", "Remove pictures by path or by a filter."),
        ("search", "Find the pictures that look most like a picture."),
        ("dedupe", "Find groups of near-duplicates, and remove all but one of each."),
    ),
)

Where = Annotated[str | None, Parameter(help='Only pictures for which this holds, as in SQL: "width > 512".')]


def build(
    index: Path,
    /,
    *,
    table: Annotated[Path, Parameter(name="--from")],
    tokens: Literal["cls", "mean", "cls+mean"] | None = None,
    whiten: bool = True,
    json: Json = False,
) -> None:
    """Make an index of the pictures of a table of embeddings.

    Parameters
    ----------
    index
        The folder to make.
    table
        The table, FILE.parquet, made by dinokit embed; its other columns can be used in filters.
    tokens
        Which vectors of the table are kept; without it, the class token where the table has it.
    whiten
        Scale down the directions in which the pictures of the table differ most; later ones are scaled alike.
    json
        Print one JSON object with the number of rows.
    """
    from dinokit.cli.output import put_result, track
    from dinokit.tasks.index import Index
    from dinokit.tasks.retrieve import Collection

    made = Index.build(index, Collection(table, tokens=tokens, whiten=whiten, track=track))
    put_result({"rows": len(made)}, f"{len(made)} pictures in {index}", json)


def add(
    index: Path, pictures: list[str], /, *, model: Model = BUNDLED, opening: Opening = AUTO, json: Json = False
) -> None:
    """Add pictures, or renew them.

    Parameters
    ----------
    index
        The index.
    pictures
        Pictures, folders, patterns or tar shards. Those whose path is in the index already are renewed.
    json
        Print one JSON object: added, skipped, summary.
    """
    from dinokit.cli.output import put_result, say, track
    from dinokit.tasks.index import Index

    summary = Index(index, opening.backbone(model)).add(pictures, track)
    if summary["skipped"]:
        say(summary["summary"])
    put_result(summary, f"added {summary['added']} pictures to {index}", json)


def remove(index: Path, paths: list[str] | None = None, /, *, where: Where = None, json: Json = False) -> None:
    """Remove pictures by path or by a filter. Their files stay.

    Parameters
    ----------
    index
        The index.
    paths
        Paths, as the index has them.
    json
        Print one JSON object with the number that were removed.
    """
    from dinokit.cli.output import put_result
    from dinokit.tasks.index import Index

    removed = Index(index).remove(paths or (), where)
    put_result({"removed": removed}, f"removed {removed} pictures from {index}", json)


def search(
    index: Path,
    queries: list[str],
    /,
    *,
    k: Whole | None = None,
    where: Where = None,
    rerank: Whole = 0,
    out: Out | None = None,
    model: Model = BUNDLED,
    opening: Opening = AUTO,
    json: Json = False,
) -> None:
    """Find the pictures that look most like a picture.

    Parameters
    ----------
    index
        The index.
    queries
        Pictures, folders or patterns.
    k
        Number of pictures to find; without it 12, or all where there are fewer.
    rerank
        Compare this many of the first hits patch by patch, and put them in that order.
    out
        Also write a sheet of pictures, FILE.jpg or .png, or FILE.json or .csv.
    json
        Print one JSON object: searches, for each the query and its hits (path, similarity, width, height, patches).
    """
    from dinokit.cli.searching import answer
    from dinokit.inference.views import expand
    from dinokit.tasks.hits import ENDINGS
    from dinokit.tasks.index import Index
    from dinokit.tasks.results import check_out

    pictures = expand(queries)
    if out is not None:
        check_out(out, ENDINGS, pictures)
    opened = Index(index, opening.backbone(model))
    if out is not None:
        opened.check_out(out)
    answer(lambda picture: opened.search(picture, k, rerank, where), pictures, out, json)


def dedupe(
    index: Path,
    /,
    *,
    threshold: float | None = None,
    remove: Flag = False,
    out: Out | None = None,
    json: Json = False,
) -> None:
    """Find groups of near-duplicates, and remove all but one of each.

    Parameters
    ----------
    index
        The index, or a table of embeddings (FILE.parquet).
    threshold
        Similarity from which on two pictures are linked; without it 0.9, or 0.99 for vectors that are not whitened. A
        group is what is linked by a chain.
    remove
        Remove from the index all but the picture with most pixels of each group. Their files stay.
    out
        Also write a sheet of the groups, FILE.jpg or .png, or FILE.json or .csv.
    json
        Print one JSON object: threshold, groups (lists of paths, the picture with most pixels first), removed.
    """
    from dinokit.cli.output import put_result
    from dinokit.tasks.hits import ENDINGS
    from dinokit.tasks.index import Index, open_searchable
    from dinokit.tasks.results import check_out

    if out is not None:
        check_out(out, ENDINGS, [index])
    opened = open_searchable(index, remove)
    if out is not None:
        opened.check_out(out)
    found = opened.duplicates(threshold)
    if out is not None:
        found.save(out)
    removed = opened.remove(found.extra) if isinstance(opened, Index) and remove and found.extra else 0
    put_result({**found.to_row(), "removed": removed}, found.describe(removed), json)
