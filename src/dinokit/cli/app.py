"""The command line: which verbs there are, and how everything that goes wrong is said in one line.

Verbs are named here and imported when they run, so `dinokit --help` never waits for torch. What a person
did wrong, and what the machine cannot do, ends in `error: what: what to do` on standard error and exit code 2.
Ctrl-C ends in exit code 130, except for a training that it has stopped cleanly: its work is saved, its code 0.
"""

import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

from cyclopts import App, CycloptsError, Group

from dinokit.checkpoints.names import printable
from dinokit.errors import UserError, is_out_of_memory

LOOK = Group("Look", sort_key=0)
LEARN = Group("Learn", sort_key=1)


@dataclass(frozen=True)
class Verb:
    """A verb `name` is the function of that name in the module of that name beside this one."""

    name: str
    group: Group
    summary: str
    examples: tuple[str, ...]
    more: str = ""


VERBS = (
    Verb(
        "demo",
        LOOK,
        "Make a page that shows what the network sees in a dozen photos, or in yours.",
        ("dinokit demo", "dinokit demo holiday-photos/ --out holiday"),
        "One file, OUT/index.html: colours of the features, similar places under the pointer, foreground, "
        "photos that are alike, corresponding points in two views. It needs no network.",
    ),
    Verb(
        "show",
        LOOK,
        "Write pictures of the features: their colours and the foreground.",
        ("dinokit show street.jpg --out maps",),
    ),
    Verb(
        "info",
        LOOK,
        "Tell what a model is: its shape, its size, where its weights come from.",
        ("dinokit info dinokit_vitt16", "dinokit info weights.safetensors --json"),
    ),
    Verb(
        "convert",
        LOOK,
        "Write a model in the layout that transformers, timm or Meta's code reads.",
        (
            "dinokit convert runs/mine mine-hf/ --layout transformers",
            "dinokit convert facebook/dinov3-vits16-pretrain-lvd1689m vits16/ --layout timm",
        ),
        "What a layout cannot hold is refused by name; what it leaves out without changing the features is said.",
    ),
    Verb(
        "embed",
        LOOK,
        "Write one row of features for each picture into a Parquet table.",
        ("dinokit embed photos/ --out photos.parquet", "dinokit embed photos/ --out photos.parquet --tokens cls+mean"),
        "Stopped halfway it keeps what it has; the same command continues.",
    ),
    Verb(
        "features",
        LOOK,
        "Write the patch features of each picture into a file of its own.",
        ("dinokit features photos/ --out features", "dinokit features street.jpg --out f --size 896 --format npy"),
        "Stopped halfway it keeps what it has; the same command continues.",
    ),
    Verb(
        "pretrain",
        LEARN,
        "Learn a backbone from unlabelled pictures.",
        (
            "dinokit pretrain photos/ --out runs/mine --budget 2h",
            'dinokit pretrain a/ "b-{0000..0003}.tar" --weights 0.3 0.7 --out runs/mix --set run.batch=128',
        ),
        "Ctrl-C saves; the same command goes on from there. The backbone lies in RUN/model.",
    ),
    Verb(
        "knn",
        LEARN,
        "Measure a backbone by the labels of nearest neighbours.",
        ("dinokit knn runs/mine --bank labelled/train --query labelled/val",),
        "Each query picture is given the label that its K nearest labelled pictures vote for.",
    ),
)


def build_app() -> App:
    """The application with all verbs, none of them imported yet."""
    first = [verb.examples[0] for verb in VERBS]
    app = App(
        name="dinokit",
        usage="Usage: dinokit VERB [ARGUMENTS] [OPTIONS]",
        help="Learn from unlabelled pictures, freeze the result, use it for every vision job.",
        help_format="plaintext",
        help_epilogue=_examples(first) + "\n\nEach verb explains itself: dinokit VERB --help\n",
        version=lambda: version("dinokit"),
        suppress_keyboard_interrupt=False,
    )
    app.group_commands = Group("Other", sort_key=2)
    for position, verb in enumerate(VERBS):
        app.command(
            f"dinokit.cli.{verb.name}:{verb.name}",
            name=verb.name,
            group=verb.group,
            sort_key=position,
            help=f"{verb.summary}\n\n{verb.more}".strip(),
            help_epilogue=_examples(verb.examples) + "\n",
        )
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line on `arguments` (default: those of the process) and return the exit code."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: _warn(str(message))
            build_app()(tokens, print_error=False, exit_on_error=False, result_action="return_none")
        sys.stdout.flush()
    except UserError as error:
        return _fail(str(error))
    except CycloptsError as error:
        verb = next((f" {verb.name}" for verb in VERBS if tokens[:1] == [verb.name]), "")
        return _fail(f"{str(error).strip().rstrip('.')}: see dinokit{verb} --help")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _close_output()  # the reader (head, less) has gone: nobody is left to tell
        return 1
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        _close_output()
        return _fail(f"the output cannot be written ({error.strerror}): make room, or send it elsewhere")
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return _fail("not enough memory: lower the batch, the crops or --size, or take a smaller model")
    return 0


def _warn(message: str) -> None:
    print(f"warning: {printable(' '.join(message.split()))}", file=sys.stderr)


def _close_output() -> None:
    """Let the last flush of standard output, at the end of the process, go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _examples(lines: Sequence[str]) -> str:
    return "\n".join(["Examples:" if len(lines) > 1 else "Example:", "", *(f"  {line}" for line in lines)])


def _fail(message: str) -> int:
    print(f"error: {printable(' '.join(message.split()))}", file=sys.stderr)
    return 2
