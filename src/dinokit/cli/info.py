"""`dinokit info`: what a model is."""

from typing import Annotated

from cyclopts import Parameter

from dinokit.cli.models import Assume, Device, Precision, open_model


def info(
    name: str,
    /,
    *,
    assume: Assume = None,
    device: Device = "auto",
    precision: Precision = "auto",
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Tell what a model is: its shape, size and where its weights come from.

    Parameters
    ----------
    name
        Whatever dinokit.load takes: a name, a file, a folder, a run.
    json
        Print one JSON object instead of lines.
    """
    from dinokit.cli.output import print_json, put
    from dinokit.inference.info import describe_model

    facts = describe_model(open_model(name, assume), device, precision)
    if json:
        print_json(facts)
    else:
        for key, value in facts.items():
            put(f"{key:<20} {value}")
