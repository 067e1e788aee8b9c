"""`dinokit embed`: pictures in, a table of features out."""

from pathlib import Path
from typing import Any

from dinokit.cli.models import AUTO, BUNDLED, Model, Opening
from dinokit.cli.options import Json, Out, Pixels, Whole


def embed(
    images: list[str],
    /,
    *,
    out: Out,
    model: Model = BUNDLED,
    size: Pixels | None = None,
    batch_size: Whole = 16,
    opening: Opening = AUTO,
    json: Json = False,
) -> None:
    """Write one row of features for each picture into a Parquet table.

    Parameters
    ----------
    images
        Pictures, folders, patterns or tar shards.
    out
        The table to write, FILE.parquet: path (SHARD.tar/MEMBER in shards), width, height, embedding (class token).
    size
        Short side in pixels; without it, the size the model was trained at.
    batch_size
        Pictures at a time.
    json
        Print one JSON object with the counts instead of a line.
    """
    from dinokit.cli.output import say, track
    from dinokit.inference.embed import embed_pictures

    backbone = opening.backbone(model)
    try:
        summary = embed_pictures(images, out, backbone=backbone, size=size, batch_size=batch_size, track=track, say=say)
    except KeyboardInterrupt:
        say(f"what is finished is kept in {out}.parts; the same command continues")
        raise
    _tell(summary, out, json)


def _tell(summary: dict[str, Any], out: Path, json: bool) -> None:
    from dinokit.cli.output import print_json, put, say

    if summary["skipped"]:
        say(f"{summary['summary']} (listed in {out}.errors.jsonl)")
    if json:
        print_json(summary)
    else:
        put(f"{summary['rows']} rows in {out}")
