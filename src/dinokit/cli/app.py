"""The command line: which verbs there are, and how everything that goes wrong is said in one line.

Verbs are the files in `cli/verbs/`; what they need is imported when they run, so `dinokit --help` never waits for
torch. What a person did wrong, and what the machine cannot do, ends in `error: what: what to do` on standard error
and exit code 2.
Ctrl-C ends in exit code 130, except for a training that it has stopped cleanly: its work is saved, its code 0.
"""

import os
import re
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from cyclopts import App, CycloptsError, Group

from dinokit.checkpoints.names import printable
from dinokit.cli import verbs
from dinokit.cli.memory import keep_buffers
from dinokit.cli.verb import OTHER, Verb, all_verbs
from dinokit.errors import UserError, is_out_of_memory


def build_app() -> App:
    """The application with all verbs; their functions are looked at when they run."""
    first = [verb.examples[0] for verb in all_verbs()]
    app = App(
        name="dinokit",
        usage="Usage: dinokit VERB [ARGUMENTS] [OPTIONS]",
        help="Learn from unlabelled pictures, freeze the result, use it for every vision job.",
        help_format="markdown",
        help_epilogue=_examples(first) + "\n\nEach verb explains itself: dinokit VERB --help\n",
        version=lambda: version("dinokit"),
        suppress_keyboard_interrupt=False,
    )
    app.group_commands = OTHER
    for position, verb in enumerate(all_verbs()):
        _add(app, verb, position)
    return app


def _add(app: App, verb: Verb, position: int) -> None:
    place = f"{verbs.__name__}.{verb.name}"
    shown: dict[str, Any] = {
        "name": verb.name,
        "group": verb.group,
        "sort_key": position,
        "help": f"{verb.summary}\n\n{verb.more}".strip(),
        "help_epilogue": _examples(verb.examples) + "\n",
    }
    if not verb.parts:
        app.command(f"{place}:{verb.name}", **shown)
        return
    group = App(**shown, help_format="markdown", group_commands=Group("Verbs", sort_key=0))
    for number, (part, summary) in enumerate(verb.parts):
        group.command(f"{place}:{part}", name=part, help=summary, sort_key=number)
    app.command(group)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line on `arguments` (default: those of the process) and return the exit code."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    keep_buffers()
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: _warn(str(message))
            build_app()(tokens, print_error=False, exit_on_error=False, result_action="return_none")
        sys.stdout.flush()
    except UserError as error:
        return _fail(str(error))
    except CycloptsError as error:
        return _fail(f"{str(error).strip().rstrip('.')}: see dinokit{_verb_of(tokens)} --help")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _close_output()  # the reader (head, less) has gone: nobody is left to tell
        return 1
    except OSError as error:
        if error.errno is None:
            raise
        if error.filename is not None:
            return _fail(f"{error.filename}: {error.strerror}")
        _close_output()
        return _fail(f"the output cannot be written ({error.strerror}): make room, or send it elsewhere")
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return _fail("not enough memory: lower the batch, the crops or --size, or take a smaller model")
    return 0


def _verb_of(tokens: Sequence[str]) -> str:
    """The verb that was typed, with its part, each after a blank; empty if there is none of that name."""
    for verb in all_verbs():
        if tokens[:1] == [verb.name]:
            part = next((f" {part}" for part, _ in verb.parts if tokens[1:2] == [part]), "")
            return f" {verb.name}{part}"
    return ""


def _warn(message: str) -> None:
    print(f"warning: {printable(' '.join(message.split()))}", file=sys.stderr)


def _close_output() -> None:
    """Let the last flush of standard output, at the end of the process, go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _examples(lines: Sequence[str]) -> str:
    """In Markdown, which help is written in: its paragraphs are wrapped anew, these lines are not."""
    literal = [re.sub(r"([\\`*_\[\]<>~|#])", r"\\\1", line) for line in lines]
    return ("Examples:" if len(lines) > 1 else "Example:") + "\n\n" + "\\\n".join(literal)


def _fail(message: str) -> int:
    print(f"error: {printable(' '.join(message.split()))}", file=sys.stderr)
    return 2
