"""`dinokit pretrain`: unlabelled pictures in, a backbone out."""

from typing import Annotated

from cyclopts import Parameter

from dinokit.cli.options import Out, Whole
from dinokit.cli.verb import LEARN, Verb

VERB = Verb(
    "pretrain",
    LEARN,
    6,
    "Learn a backbone from unlabelled pictures.",
    (
        "dinokit pretrain photos/ --out runs/mine --budget 2h",
        'dinokit pretrain a/ "b-{0000..0003}.tar" --weights 0.3 0.7 --out runs/mix --set run.batch=128',
    ),
    "Ctrl-C saves; the same command goes on from there. The backbone lies in RUN/model.",
)

Weights = Annotated[
    list[float] | None,
    Parameter(
        consume_multiple=True,
        negative=(),
        help="How often each data set is drawn from, one number for each.",
    ),
]
Settings = Annotated[
    list[str] | None,
    Parameter(
        name="--set",
        consume_multiple=True,
        negative=(),
        help="Any setting of the recipe, several if need be: KEY=VALUE, such as optimizer.lr=5e-4. "
        "RUN/recipe.toml has all.",
    ),
]


def pretrain(
    data: list[str],
    /,
    *,
    out: Out,
    preset: str | None = None,
    budget: str | None = None,
    weights: Weights = None,
    init: str | None = None,
    set_: Settings = None,
    device: str = "auto",
    seed: Whole | None = None,
) -> None:
    """Learn a backbone from unlabelled pictures.

    Parameters
    ----------
    data
        Folders of pictures, tar shards or patterns, each a data set.
    out
        The run folder.
    preset
        A recipe to start from: laptop, larger-crops, finish, dinov3, or a .toml file.
    budget
        How long training may take (30m, 2h, 1d): everything else is derived from it, the data and the speed of the
        machine as it is at the start.
        Without a budget the recipe decides; by default it goes on until it is stopped.
    init
        A model whose backbone (and heads, if they lie beside it) training starts from.
    device
        auto, cpu, cuda or mps.
    seed
        The same seed gives the same run on the same machine.
    """
    from dinokit.checkpoints.folders import hold
    from dinokit.cli.training import follow
    from dinokit.pretrain.start import Order, prepare_run

    order = Order(data, out, preset, budget, weights, init, set_ or [], device, seed)
    with hold(out, "training"):
        follow(lambda listener: prepare_run(order, listener))
