"""`dinokit convert`: a model in the layout that another program reads."""

from pathlib import Path

from dinokit.cli.models import AUTO, Model, Opening
from dinokit.cli.options import Json
from dinokit.cli.verb import LOOK, Verb

VERB = Verb(
    "convert",
    LOOK,
    3,
    "Write a model in the layout that transformers, timm or Meta's code reads.",
    (
        "dinokit convert runs/mine mine-hf/ --layout transformers",
        "dinokit convert facebook/dinov3-vits16-pretrain-lvd1689m vits16/ --layout timm",
    ),
    "What a layout cannot hold is refused by name; what it leaves out without changing the features is said.",
)


def convert(
    source: Model,
    target: Path,
    /,
    *,
    layout: str = "dinokit",
    opening: Opening = AUTO,
    json: Json = False,
) -> None:
    """Write a model in the layout that another program reads.

    Parameters
    ----------
    target
        Folder to write; it is made if need be.
    layout
        dinokit; transformers (for AutoModel.from_pretrained); timm (for timm.create_model); meta (one .pth file).
    json
        Print one JSON object instead of the path of the weights.
    """
    import warnings

    from dinokit.checkpoints.export import export_model
    from dinokit.cli.output import put_result, warn

    model = opening.model(source)
    with warnings.catch_warnings():
        warnings.showwarning = lambda text, *_: warn(str(text))
        weights = export_model(target, model.network.state_dict(), model.info, layout)
    put_result({"name": model.info.name, "layout": layout, "weights": str(weights)}, str(weights), json)
