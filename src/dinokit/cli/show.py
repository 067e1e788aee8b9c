"""`dinokit show`: the features of pictures as pictures."""

from pathlib import Path

from dinokit.cli.models import Assume, open_backbone


def show(
    images: list[str],
    /,
    *,
    out: Path = Path("maps"),
    model: str = "dinokit_vitt16",
    size: int | None = None,
    assume: Assume = None,
) -> None:
    """Write pictures of the features: their colours and the foreground.

    Parameters
    ----------
    images
        Pictures, folders or patterns.
    out
        Folder for the pictures; it is made if need be.
    model
        Whatever dinokit.load takes: a name, a file, a folder, a run.
    size
        Short side in pixels; without it, the size the model was trained at.
    """
    from dinokit.cli.output import warn
    from dinokit.report.show import show_pictures

    for path in show_pictures(images, open_backbone(model, assume), out, size=size, warn=warn):
        print(path)
