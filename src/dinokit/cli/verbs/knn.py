"""`dinokit knn`: how good a frozen backbone is, without training anything."""

from typing import Any

from dinokit.cli.models import AUTO, Model, Opening
from dinokit.cli.options import Json, Pixels, Whole
from dinokit.cli.verb import LEARN, Verb

VERB = Verb(
    "knn",
    LEARN,
    7,
    "Measure a backbone by the labels of nearest neighbours.",
    ("dinokit knn runs/mine --bank labelled/train --query labelled/val",),
    "Each query picture is given the label that its K nearest labelled pictures vote for.",
)


def knn(
    model: Model,
    /,
    *,
    bank: str,
    query: str,
    k: Whole | None = None,
    size: Pixels | None = None,
    opening: Opening = AUTO,
    json: Json = False,
) -> None:
    """Measure a backbone by the labels of nearest neighbours.

    Parameters
    ----------
    bank
        Labelled pictures to compare with: a folder tree or tar shards.
    query
        Labelled pictures to measure on.
    k
        Number of neighbours; without it 20, or the whole bank where that is smaller.
    size
        Pictures are squashed to a square of this side in pixels; without it, the size the model was trained at.
    json
        Print one JSON object: top1, top5 (%), k, bank, query, shared (in both), skipped, summary, images_per_second.
    """
    from dinokit.cli.output import say, track
    from dinokit.heads.probe import NEIGHBOURS, measure_knn

    backbone = opening.backbone(model)
    result = measure_knn(backbone, bank=bank, query=query, k=k, size=size, track=track)
    if k is None and result["k"] < NEIGHBOURS:
        say(f"k = {result['k']}: the bank has no more pictures")
    _tell(result, json)


def _tell(result: dict[str, Any], json: bool) -> None:
    from dinokit.cli.output import put_result, say, warn

    if result["skipped"]:
        say(result["summary"])
    if result["shared"]:
        warn(f"{result['shared']} of the {result['query']} query pictures are in the bank too and find themselves")
    put_result(result, f"top-1 {result['top1']:.2f} %, top-5 {result['top5']:.2f} %", json)
