"""`dinokit info`: what a model is."""

from typing import Annotated

from cyclopts import Parameter

from dinokit.cli.models import Assume, open_backbone


def info(name: str, /, *, assume: Assume = None, json: Annotated[bool, Parameter(negative=())] = False) -> None:
    """Tell what a model is: its shape, size and where its weights come from.

    Parameters
    ----------
    name
        Whatever dinokit.load takes: a name, a file, a folder, a run.
    json
        Print one JSON object instead of lines.
    """
    from dinokit.cli.output import print_json
    from dinokit.inference.info import describe_model

    facts = describe_model(open_backbone(name, assume))
    if json:
        print_json(facts)
    else:
        for key, value in facts.items():
            print(f"{key:<20} {value}")
