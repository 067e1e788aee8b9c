"""The folder that a person named for a page or pictures: checked before the work, made when there is something."""

import os
from pathlib import Path

from dinokit.errors import UserError


def check_folder(out: Path) -> None:
    """Raises `UserError` where `out` could not be made or written in. Makes nothing."""
    nearest = next(path for path in (out, *out.parents, Path()) if os.path.exists(path))
    if not nearest.is_dir():
        raise unwritable(out, f"{nearest} is a file")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise unwritable(out, "not allowed")


def unwritable(path: Path, reason: str | None) -> UserError:
    """The error for a path that cannot be written."""
    return UserError(f"cannot write {path} ({reason})", "choose another folder with --out")
