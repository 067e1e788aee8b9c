"""Options that several verbs have, and what is refused where they are typed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter, Token

from dinokit.errors import UserError


def _whole(_: Any, tokens: Sequence[Token]) -> int:
    text = tokens[0].value
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a whole number") from None


def _pixels(_: Any, tokens: Sequence[Token]) -> int:
    pixels = _whole(_, tokens)
    if not 0 < pixels < 2**31:
        raise UserError(f"--size is {pixels}", "give a whole number of pixels, such as 448")
    return pixels


def _place(_: Any, tokens: Sequence[Token]) -> Path:
    if not tokens[0].value:
        raise UserError("--out is empty", "give a path")
    return Path(tokens[0].value)


Whole = Annotated[int, Parameter(converter=_whole)]
"""A whole number (by itself cyclopts takes 3.5 for 3)."""
Pixels = Annotated[int, Parameter(converter=_pixels)]
"""The value of --size."""
Json = Annotated[bool, Parameter(negative=())]
"""Whether to print one JSON object."""
Flag = Annotated[bool, Parameter(negative=())]
"""Whether to do what the option is called."""
Out = Annotated[Path, Parameter(converter=_place)]
"""Where to write."""
Counts = Annotated[list[Whole], Parameter(consume_multiple=True, negative=())]
"""Numbers of pictures."""
Layers = Annotated[list[Whole], Parameter(consume_multiple=True, negative=())]
"""Numbers of blocks."""
ClassFile = Annotated[Path, Parameter(name="--classes")]
"""A file with the name of a class in each line."""
Scales = Annotated[list[float], Parameter(consume_multiple=True, negative=())]
"""Multiples of a size."""
