"""`dinokit knn`: how good a frozen backbone is, without training anything."""

from typing import Annotated

from cyclopts import Parameter

from dinokit.cli.models import Assume, open_backbone


def knn(
    model: str,
    /,
    *,
    bank: str,
    query: str,
    k: int = 20,
    size: int | None = None,
    assume: Assume = None,
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
        Number of neighbours.
    size
        Short side in pixels; without it, the size the model was trained at.
    json
        Print one JSON object: top1, top5 (per cent), k, bank, query, images_per_second.
    """
    from dinokit.cli.output import print_json, track
    from dinokit.heads.probe import measure_knn

    result = measure_knn(open_backbone(model, assume), bank=bank, query=query, k=k, size=size, track=track)
    if json:
        print_json(result)
    else:
        print(f"top-1 {result['top1']:.2f} %, top-5 {result['top5']:.2f} %")
