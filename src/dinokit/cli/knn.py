"""`dinokit knn`: how good a frozen backbone is, without training anything."""

from typing import Annotated

from cyclopts import Parameter

from dinokit.cli.models import Assume, Device, Precision, open_backbone
from dinokit.cli.options import Pixels, Whole


def knn(
    model: str,
    /,
    *,
    bank: str,
    query: str,
    k: Whole | None = None,
    size: Pixels | None = None,
    assume: Assume = None,
    device: Device = "auto",
    precision: Precision = "auto",
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Measure a backbone by the labels of nearest neighbours.

    Each query picture is given the label that its K nearest labelled pictures vote for.

    Parameters
    ----------
    model
        Whatever dinokit.load takes: a name, a file, a folder, a run.
    bank
        Labelled pictures to compare with: a folder tree or tar shards.
    query
        Labelled pictures to measure on.
    k
        Number of neighbours; without it 20, or the whole bank where that is smaller.
    size
        Pictures are squashed to a square of this side in pixels; without it, the size the model was trained at.
    json
        Print one JSON object: top1, top5 (per cent), k, bank, query, shared (pictures of the query that
        are in the bank too), skipped, summary, images_per_second.
    """
    from dinokit.cli.output import print_json, say, track, warn
    from dinokit.heads.probe import NEIGHBOURS, measure_knn

    backbone = open_backbone(model, assume, device, precision)
    result = measure_knn(backbone, bank=bank, query=query, k=k, size=size, track=track)
    if result["skipped"]:
        say(result["summary"])
    if k is None and result["k"] < NEIGHBOURS:
        say(f"k = {result['k']}: the bank has no more pictures")
    if result["shared"]:
        warn(f"{result['shared']} of the {result['query']} query pictures are in the bank too and find themselves")
    if json:
        print_json(result)
    else:
        print(f"top-1 {result['top1']:.2f} %, top-5 {result['top5']:.2f} %")
