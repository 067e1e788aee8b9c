"""The command line: which verbs there are, and how everything that goes wrong is said in one line.

Verbs are named here and imported when they run, so `dinokit --help` never waits for torch. What a person
did wrong ends in `error: what: what to do` on standard error and exit code 2; Ctrl-C in exit code 130.
"""

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from cyclopts import App, CycloptsError, Group

from dinokit.errors import UserError

LOOK = Group("Look", sort_key=0)
LEARN = Group("Learn", sort_key=1)

VERBS = (
    ("demo", LOOK, "Make a page that shows what the network sees in a dozen photos, or in yours."),
    ("show", LOOK, "Write pictures of the features: their colours and the foreground."),
    ("info", LOOK, "Tell what a model is: its shape, size and where its weights come from."),
    ("embed", LOOK, "Write one row of features for each picture into a Parquet table."),
    ("pretrain", LEARN, "Learn a backbone from unlabelled pictures."),
    ("knn", LEARN, "Measure a backbone by the labels of nearest neighbours."),
)

EXAMPLES = """
Examples:

  dinokit demo holiday-photos/ --out demo
  dinokit show street.jpg --out maps
  dinokit info dinokit_vitt16
  dinokit embed photos/ --out photos.parquet
  dinokit pretrain photos/ --out runs/mine --budget 2h
  dinokit knn runs/mine --bank labelled/train --query labelled/val

Each verb explains itself: dinokit VERB --help
"""


def build_app() -> App:
    """The application with all verbs, none of them imported yet."""
    app = App(
        name="dinokit",
        usage="Usage: dinokit VERB [ARGUMENTS] [OPTIONS]",
        help="Learn from unlabelled pictures, freeze the result, use it for every vision job.",
        help_format="plaintext",
        help_epilogue=EXAMPLES,
        version=lambda: version("dinokit"),
        suppress_keyboard_interrupt=False,
    )
    app.group_commands = Group("Other", sort_key=2)
    for name, group, summary in VERBS:
        app.command(
            f"dinokit.cli.{name}:{name}",
            name=name,
            group=group,
            help=summary,
            help_epilogue="",
            sort_key=_order(name),
        )
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line on `arguments` (default: those of the process) and return the exit code."""
    try:
        tokens = list(sys.argv[1:] if arguments is None else arguments)
        build_app()(tokens, print_error=False, exit_on_error=False, result_action="return_none")
        sys.stdout.flush()
    except UserError as error:
        return _fail(str(error))
    except CycloptsError as error:
        return _fail(
            f"{error}: see dinokit --help" if "did you mean" not in str(error).lower() else str(error)
        )
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (head, less) has gone: nobody is left to tell, not even at the last flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def _order(name: str) -> int:
    return [verb for verb, _, _ in VERBS].index(name)


def _fail(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2
