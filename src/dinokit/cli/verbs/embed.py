"""`dinokit embed`: pictures in, a table of features out."""

from typing import Literal

from dinokit.cli.models import AUTO, BUNDLED, Model, Opening
from dinokit.cli.options import Json, Out, Pixels, Whole
from dinokit.cli.verb import LOOK, Verb

VERB = Verb(
    "embed",
    LOOK,
    4,
    "Write one row of features for each picture into a Parquet table.",
    ("dinokit embed photos/ --out photos.parquet", "dinokit embed photos/ --out photos.parquet --tokens cls+mean"),
    "Stopped halfway it keeps what it has; the same command continues.",
)


def embed(
    images: list[str],
    /,
    *,
    out: Out,
    model: Model = BUNDLED,
    size: Pixels | None = None,
    tokens: Literal["cls", "mean", "cls+mean"] = "cls",
    dtype: Literal["float32", "float16"] = "float32",
    batch_size: Whole = 16,
    ray: Whole | None = None,
    opening: Opening = AUTO,
    json: Json = False,
) -> None:
    """Write one row of features for each picture into a Parquet table.

    Parameters
    ----------
    images
        Pictures, folders, patterns or tar shards.
    out
        The table to write, FILE.parquet: path (SHARD.tar/MEMBER in shards), width, height, embedding.
    size
        Short side in pixels; without it, the size the model was trained at.
    tokens
        What embedding holds: the class token or the mean of the patches; cls+mean has the latter in mean_patch.
    dtype
        Number format of these columns; float16 halves the file.
    batch_size
        Pictures at a time.
    ray
        Share the work among this many processes under Ray Data (pip install dinokit[ray]): on the cluster that
        RAY_ADDRESS names, or else on this machine.
    json
        Print one JSON object with the counts instead of a line.
    """
    from dinokit.cli.output import keeping, say, tell, track
    from dinokit.inference.embed import EmbedSettings, embed_pictures

    settings = EmbedSettings(size, tokens, dtype, batch_size, ray)
    backbone = opening.backbone(model)
    with keeping(f"{out}.parts"):
        summary = embed_pictures(images, out, backbone, settings, track, say)
    tell(summary, f"{summary['rows']} rows in {out}", f"listed in {out}.errors.jsonl", json)
