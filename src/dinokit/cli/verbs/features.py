"""`dinokit features`: pictures in, a file of patch features each."""

from typing import Literal

from dinokit.cli.models import AUTO, BUNDLED, Model, Opening
from dinokit.cli.options import Json, Out, Pixels, Whole
from dinokit.cli.verb import LOOK, Verb

VERB = Verb(
    "features",
    LOOK,
    5,
    "Write the patch features of each picture into a file of its own.",
    ("dinokit features photos/ --out features", "dinokit features street.jpg --out f --size 896 --format npy"),
    "Stopped halfway it keeps what it has; the same command continues.",
)


def features(
    images: list[str],
    /,
    *,
    out: Out,
    model: Model = BUNDLED,
    format: Literal["safetensors", "npy"] = "safetensors",
    size: Pixels | None = None,
    batch_size: Whole = 16,
    opening: Opening = AUTO,
    json: Json = False,
) -> None:
    """Write the patch features of each picture into a file of its own.

    Parameters
    ----------
    images
        Pictures, folders, patterns or tar shards.
    out
        Folder for the files, one float16 array [h, w, D] a picture, and for features.jsonl, which says what each
        holds and where its cells lie in the picture.
    format
        Of the files; safetensors call the array "patches".
    size
        Short side in pixels; without it, the size the model was trained at. Larger gives finer features.
    batch_size
        Pictures at a time.
    json
        Print one JSON object with the counts instead of a line.
    """
    from dinokit.cli.output import keeping, say, tell, track
    from dinokit.inference.dense import DenseSettings, write_features

    settings = DenseSettings(size, format, batch_size)
    backbone = opening.backbone(model)
    with keeping(out):
        summary = write_features(images, out, backbone, settings, track, say)
    tell(
        summary, f"{summary['files']} files in {out}", f"unreadable pictures are listed in {out / 'errors.jsonl'}", json
    )
