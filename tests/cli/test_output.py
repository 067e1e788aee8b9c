"""What verbs print reaches a terminal as text, whatever names it holds and whatever the terminal can show."""

import io
import sys

import pytest

from dinokit.cli.output import print_json, put, say, warn

NAME = "b\x1b]0;owned\x07\x1b[31m\udce9\n.png"


def test_names_do_not_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    put(NAME)
    say(NAME)
    warn(NAME)
    out, err = capsys.readouterr()
    assert out == "b]0;owned[31m?.png\n"
    assert err == "b]0;owned[31m?.png\nwarning: b]0;owned[31m? .png\n"


@pytest.mark.parametrize(("encoding", "shown"), [("utf-8", "é"), ("ascii", "?")])
def test_a_terminal_of_another_encoding(encoding: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding))
    put("caf\u00e9.png")
    print_json({"out": "caf\u00e9.png"})
    sys.stdout.flush()
    assert written.getvalue().decode(encoding) == f'caf{shown}.png\n{{"out": "caf{shown}.png"}}\n'
