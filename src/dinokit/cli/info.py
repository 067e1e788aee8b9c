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
    import warnings

    from dinokit.checkpoints.model import AssumptionWarning
    from dinokit.cli.output import print_json, put, say
    from dinokit.inference.info import describe_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AssumptionWarning)  # the facts say it
        model = open_model(name, assume)
    facts = {**describe_model(model, device, precision), "given": ", ".join(assume or ()) or "nothing"}
    if json:
        print_json(facts)
    else:
        for key, value in facts.items():
            put(f"{key:<20} {value}")
        if model.info.assumptions:
            say("what was assumed can be given: --assume KEY=VALUE")
