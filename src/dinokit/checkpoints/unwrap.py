"""The backbone's weights inside a checkpoint of any layout: wrappers opened, prefixes stripped, heads left out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from dinokit.errors import UserError

_WRAPPERS = ("teacher", "model_ema", "model", "state_dict")
_PREFIXES = ("module.", "teacher.", "model_ema.", "backbone.", "_orig_mod.")


def unwrap(content: Any, where: Path) -> dict[str, Tensor]:
    """The state dict inside a checkpoint, that of its backbone; a `UserError` naming the file if there is none."""
    for _ in range(len(_WRAPPERS)):  # a wrapper may lie in a wrapper
        inner = [content[name] for name in _WRAPPERS if isinstance(content, Mapping) and name in content]
        if not inner or not isinstance(inner[0], Mapping):
            break
        content = inner[0]
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{where} holds no state dict of tensors", "give a file with a network's weights")
    strange = next((key for key, value in content.items() if not isinstance(value, Tensor)), None)
    if strange is not None:
        what = f"{where} holds no state dict of tensors ({str(strange)[:60]!r} is none)"
        raise UserError(what, "give a file with a network's weights")
    state = {str(key): value for key, value in content.items()}
    for prefix in _PREFIXES:
        chosen = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        state = chosen or state
    return state
