"""`dinokit show`: the features of pictures as pictures."""

from pathlib import Path

from dinokit.cli.models import AUTO, BUNDLED, Model, Opening
from dinokit.cli.options import Out, Pixels
from dinokit.cli.verb import LOOK, Verb
from dinokit.report import PICTURE_SIZE

VERB = Verb(
    "show",
    LOOK,
    1,
    "Write pictures of the features: their colours and the foreground.",
    ("dinokit show street.jpg --out maps",),
)


def show(
    images: list[str],
    /,
    *,
    out: Out = Path("maps"),
    model: Model = BUNDLED,
    size: Pixels = PICTURE_SIZE,
    opening: Opening = AUTO,
) -> None:
    """Write pictures of the features: their colours and the foreground.

    Parameters
    ----------
    images
        Pictures, folders or patterns.
    out
        Folder for the pictures, NAME-features.png each; it is made if need be.
    size
        Short side in pixels at which the pictures are read; larger shows finer maps and takes longer.
    """
    from dinokit.cli.output import put, track, warn
    from dinokit.report.show import show_pictures

    backbone = opening.backbone(model)
    for path in list(show_pictures(images, backbone, out, size=size, warn=warn, track=track)):
        put(path)
