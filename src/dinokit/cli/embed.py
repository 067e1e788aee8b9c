"""`dinokit embed`: pictures in, a table of features out."""

from typing import Annotated

from cyclopts import Parameter

from dinokit.cli.models import Assume, Device, Precision, open_backbone
from dinokit.cli.options import Out, Pixels, Whole


def embed(
    images: list[str],
    /,
    *,
    out: Out,
    model: str = "dinokit_vitt16",
    size: Pixels | None = None,
    batch_size: Whole = 16,
    assume: Assume = None,
    device: Device = "auto",
    precision: Precision = "auto",
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Write one row of features for each picture into a Parquet table.

    Stopped halfway it keeps what it has; the same command continues.

    Parameters
    ----------
    images
        Pictures, folders, patterns or tar shards.
    out
        The table to write, FILE.parquet: path (as seen from here; SHARD.tar/MEMBER in shards), width, height,
        embedding (the class token).
    model
        Whatever dinokit.load takes: a name, a file, a folder, a run.
    size
        Short side in pixels; without it, the size the model was trained at.
    batch_size
        Pictures at a time.
    json
        Print one JSON object with the counts instead of a line.
    """
    from dinokit.cli.output import print_json, put, say, track
    from dinokit.inference.embed import embed_pictures

    backbone = open_backbone(model, assume, device, precision)
    try:
        summary = embed_pictures(images, out, backbone=backbone, size=size, batch_size=batch_size, track=track, say=say)
    except KeyboardInterrupt:
        say(f"what is finished is kept in {out}.parts; the same command continues")
        raise
    if summary["skipped"]:
        say(f"{summary['summary']} (listed in {out}.errors.jsonl)")
    if json:
        print_json(summary)
    else:
        put(f"{summary['rows']} rows in {out}")
