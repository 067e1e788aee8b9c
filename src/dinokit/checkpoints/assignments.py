"""What a person sets by name, as KEY=VALUE: the text that `--assume` and `--set` take."""

import tomllib
from typing import Any

from dinokit.errors import UserError


def parse_assignment(text: str, option: str, example: str) -> tuple[str, Any]:
    """`norm_eps=1e-6` -> ("norm_eps", 1e-06); the value is TOML, or a plain word.

    Raises `UserError` naming `option` where there is no name or no value, with `example` as what can be written.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"{option} {text} has no value", f"write {option} {example}")
    if not name.strip():
        raise UserError(f"{option} {text} names no setting", f"write {option} {example}")
    try:
        return name.strip(), tomllib.loads(f"value = {value}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return name.strip(), value.strip()
