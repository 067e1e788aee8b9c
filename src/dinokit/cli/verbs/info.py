"""`dinokit info`: what a model is."""

from dinokit.cli.models import AUTO, Model, Opening
from dinokit.cli.options import Json
from dinokit.cli.verb import LOOK, Verb

VERB = Verb(
    "info",
    LOOK,
    2,
    "Tell what a model is: its shape, its size, where its weights come from.",
    ("dinokit info dinokit_vitt16", "dinokit info weights.safetensors --json"),
)


def info(
    name: Model,
    /,
    *,
    opening: Opening = AUTO,
    json: Json = False,
) -> None:
    """Tell what a model is: its shape, size and where its weights come from.

    Parameters
    ----------
    json
        Print one JSON object instead of lines.
    """
    import warnings

    from dinokit.checkpoints.model import AssumptionWarning
    from dinokit.cli.output import print_json, put, say
    from dinokit.inference.info import describe_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AssumptionWarning)  # the facts say it
        model = opening.model(name)
    given = ", ".join(opening.assume or ()) or "nothing"
    facts = {**describe_model(model, opening.device, opening.precision), "given": given}
    if json:
        print_json(facts)
    else:
        for key, value in facts.items():
            put(f"{key:<20} {value}")
        if model.info.assumptions:
            say("what was assumed can be given: --assume KEY=VALUE")
