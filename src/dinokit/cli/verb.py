"""What a verb says of itself, and the list of all verbs: a file in `cli/verbs/` is enough to add one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pkgutil import iter_modules

from cyclopts import Group

from dinokit.cli import verbs

LOOK = Group("Look", sort_key=0)
LEARN = Group("Learn", sort_key=1)
JOBS = Group("Jobs", sort_key=2)
"""What a frozen backbone is used for."""
OTHER = Group("Other", sort_key=3)


@dataclass(frozen=True)
class Verb:
    """A verb `name` is the function of that name in its file."""

    name: str
    group: Group
    order: int
    """Place within the group."""
    summary: str
    examples: tuple[str, ...]
    more: str = ""
    parts: tuple[tuple[str, str], ...] = ()
    """Of a verb with verbs of its own (`classify fit`): the function of each, and what it does in one line."""


@lru_cache
def all_verbs() -> tuple[Verb, ...]:
    """Every verb, in the order in which they are listed."""
    files = [import_module(f"{verbs.__name__}.{module.name}") for module in iter_modules(verbs.__path__)]
    found: list[Verb] = [file.VERB for file in files]
    return tuple(sorted(found, key=lambda verb: (str(verb.group.sort_key), verb.order)))
