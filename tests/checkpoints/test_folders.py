"""Folders for results: refused before the work, and of one process at a time."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dinokit.checkpoints.folders import check_folder, hold, make_folder
from dinokit.errors import UserError

HOLDER = """
import sys, time
from pathlib import Path
from dinokit.checkpoints.folders import hold
with hold(Path(sys.argv[1]), "training"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_is_checked_without_making_it(tmp_path: Path) -> None:
    assert check_folder(tmp_path / "a" / "b") == tmp_path
    assert not list(tmp_path.iterdir())
    make_folder(tmp_path / "a" / "b")
    assert not list((tmp_path / "a" / "b").iterdir())


@pytest.mark.parametrize("place", ["file", "file/run", "n" * 300, "locked/run"])
def test_where_nothing_can_be_written_it_is_said(place: str, tmp_path: Path) -> None:
    if place.startswith("locked") and os.geteuid() == 0:
        pytest.skip("root writes everywhere")
    (tmp_path / "file").touch()
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(UserError, match=r"cannot write .*: choose another place with --out"):
        make_folder(tmp_path / place)


def test_a_folder_is_held_by_one_process_as_long_as_it_lives(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another process is training in"), hold(tmp_path / "run", "training"):
            pass
        process.kill()
    with hold(tmp_path / "run", "training"):
        pass


def test_a_new_folder_in_which_nothing_was_written_goes(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    for name in ("new", "old"):
        with pytest.raises(UserError), hold(tmp_path / name, "training"):
            raise UserError("wrong", "mend it")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    with hold(tmp_path / "run", "training"):
        (tmp_path / "run" / "log").touch()
    assert (tmp_path / "run" / "log").exists()


def test_a_file_system_without_locks_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with hold(tmp_path, "training"):
        pass
