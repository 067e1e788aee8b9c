"""Folders that a person named for results: checked before the work, made, and held while one process writes there."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from dinokit.errors import UserError

LOCK = ".lock"


def check_folder(folder: Path) -> Path:
    """Returns the nearest folder that exists: `folder` or one above. `UserError` where none can be made or written.

    Makes nothing.
    """
    nearest = next(path for path in (folder, *folder.parents, Path()) if os.path.exists(path))
    if not nearest.is_dir():
        raise unwritable(folder, f"{nearest} is a file")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise unwritable(folder, f"{nearest} is not yours to write in")
    return nearest


def make_folder(folder: Path) -> None:
    """Make the folder and those above it. Raises `UserError` where that, or a file in it, is impossible."""
    check_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as problem:
        raise unwritable(folder, problem.strerror) from None


def unwritable(path: Path, reason: str | None) -> UserError:
    """The error for a path that cannot be written."""
    return UserError(f"cannot write {path} ({reason})", "choose another place with --out")


@contextmanager
def hold(folder: Path, work: str) -> Iterator[None]:
    """Make `folder` and keep other processes from it; `UserError` if one is at `work` ("training") there.

    The lock goes with the process, however it ends, and a new folder in which nothing was written goes with it. A file
    system that knows no locks holds nobody off.
    """
    new = not folder.exists()
    with _lock(folder, work):
        try:
            yield
        finally:
            if new and folder.is_dir() and os.listdir(folder) == [LOCK]:
                (folder / LOCK).unlink()
                folder.rmdir()


def _lock(folder: Path, work: str) -> IO[str]:
    """The locked file of the folder, which is made."""
    make_folder(folder)
    path = folder / LOCK
    try:
        file = path.open("w")
    except OSError as problem:
        raise unwritable(folder, problem.strerror) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
            raise BlockingIOError  # it went with the folder of another process, meanwhile
    except BlockingIOError:
        file.close()
        what = f"another process is {work} in {folder}"
        raise UserError(what, "wait for it, or choose another place with --out") from None
    except OSError:
        pass
    return file
