"""What a person meets first: help, typing errors, and that nothing heavy is loaded for them."""

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dinokit.cli import app
from dinokit.cli.verb import all_verbs
from dinokit.cli.verbs import classify
from dinokit.errors import UserError


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from dinokit.cli.app import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


def test_help_lists_every_verb_with_an_example() -> None:
    result = run("--help")
    assert result.returncode == 0
    for verb in all_verbs():
        assert verb.summary in " ".join(re.sub("[│╭╮╰╯─]", " ", result.stdout).split())
        assert verb.examples[0] in result.stdout


@pytest.mark.parametrize("verb", [verb.name for verb in all_verbs()])
def test_each_verb_explains_itself(verb: str) -> None:
    result = run(verb, "--help")
    assert result.returncode == 0
    assert f"dinokit {verb}" in result.stdout
    assert "Example" in result.stdout


def test_every_option_is_explained() -> None:
    application = app.build_app()
    for verb in all_verbs():
        parts = [application[verb.name][part] for part, _ in verb.parts] or [application[verb.name]]
        for part in parts:
            for argument in part.assemble_argument_collection(parse_docstring=True):
                assert argument.children or argument.parameter.help, f"{verb.name} {argument.name} has no help"


def test_version() -> None:
    assert run("--version").stdout.strip() == "0.1.0"


def test_unknown_verb_is_one_line_with_the_nearest() -> None:
    assert 'Did you mean "demo"' in one_line(run("dmo"))


def test_unknown_option_is_one_line_with_the_nearest() -> None:
    assert "--out" in one_line(run("demo", "--ouut", "x"))


@pytest.mark.parametrize(
    "arguments",
    [["embed"], ["knn", "m"], ["info", "a", "b"], ["knn", "m", "--bank", "a", "--query", "b", "--k", "x"]],
)
def test_wrong_use_is_one_line(arguments: list[str]) -> None:
    assert f"dinokit {arguments[0]} --help" in one_line(run(*arguments))


def test_missing_photos_are_one_line() -> None:
    assert "no-such-folder" in one_line(run("demo", "no-such-folder"))


@pytest.mark.parametrize("statement", ["import dinokit", "from dinokit.cli.app import main; main(['--help'])"])
def test_torch_is_not_loaded(statement: str) -> None:
    heavy = "heavy = {'torch', 'numpy', 'scipy', 'pyarrow', 'PIL'} & set(sys.modules)"
    code = f"import sys\n{statement}\n{heavy}\nassert not heavy, heavy"
    subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.DEVNULL,
        timeout=120,
        check=True,
    )


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (UserError("a.jpg is\nempty", "copy it again"), 2, "error: a.jpg is empty: copy it again\n"),
        (UserError("b\x1b]0;owned\x07\x1b[31m.png is empty"), 2, "error: b]0;owned[31m.png is empty\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (MemoryError(), 2, "error: not enough memory: lower the batch"),
        (torch.OutOfMemoryError("CUDA out of memory."), 2, "error: not enough memory: lower the batch"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 2, "error: not enough memory: lower the batch"),
    ],
)
def test_what_goes_wrong_in_a_verb(
    raised: BaseException,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def failing() -> app.App:
        application = app.App(suppress_keyboard_interrupt=False)

        @application.default
        def verb() -> None:
            raise raised

        return application

    monkeypatch.setattr(app, "build_app", failing)
    assert app.main([]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(said)
    assert err.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_a_full_disk_is_one_line(argument: str) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "dinokit", argument]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("error: the output cannot be written (No space left on device): ")
    assert result.stderr.count("\n") == 1


FAULTS = """
import resource
import numpy as np
from dinokit.cli.memory import keep_buffers
keep_buffers()
counts = []
for _ in range(6):
    np.ones(64 * 2**20, dtype=np.uint8)
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(counts[-1] - counts[0])
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the allocator has no mallopt")
def test_large_buffers_are_kept_for_the_next_step() -> None:
    faults = {}
    for name, more in {"kept": {}, "given back": {"MALLOC_ARENA_MAX": "2"}}.items():
        environment = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")} | more
        found = subprocess.run(
            [sys.executable, "-c", FAULTS], env=environment, capture_output=True, text=True, check=True
        )
        faults[name] = int(found.stdout)
    assert faults["kept"] < 0.2 * faults["given back"]  # what the environment says of malloc stands


def test_help_is_wrapped_anew_and_examples_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = run("classify", "fit", "--help").stdout
    source = Path(classify.__file__).read_text(encoding="utf-8")
    assert "often\n        better with few pictures" in source
    assert "often better with few pictures" in shown
    lines = [line.strip() for line in shown.splitlines()]
    assert [line for line in lines if line.startswith("dinokit ")] == list(classify.VERB.examples)
