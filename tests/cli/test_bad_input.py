"""What a person does wrong is one line on standard error and exit code 2: never a stack trace."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from dinokit.backbones.catalog import spec_of
from dinokit.backbones.vit import VisionTransformer
from dinokit.cli.app import main

pytestmark = pytest.mark.usefixtures("one_thread")

MODEL = "random:dinokit_vitt16"
VIDEO = b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + bytes(500)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with good and bad things to name."""
    monkeypatch.chdir(tmp_path)
    for name in ("labelled/cat/a.png", "labelled/dog/b.png", "flat/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 32), (200, 30, 90)).save(tmp_path / name)
    for name in ("empty", "texts", "broken"):
        (tmp_path / name).mkdir()
    (tmp_path / "texts" / "readme.txt").write_text("no picture")
    (tmp_path / "clip.mp4").write_bytes(VIDEO)
    (tmp_path / "clip.jpg").write_bytes(VIDEO)
    (tmp_path / "page.jpg").write_text("<!doctype html><html></html>")
    for name in ("broken/a.jpg", "broken/b.jpg"):
        (tmp_path / name).write_bytes(b"\xff\xd8\xff\xe0")
    (tmp_path / "file").touch()
    return tmp_path


def fails(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that `dinokit COMMAND` says."""
    code = main(command.split())
    captured = capsys.readouterr()
    assert code == 2, captured
    assert captured.out == ""
    assert captured.err.startswith("error: "), captured.err
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.endswith("\n")
    return captured.err


PICTURES = [
    ("missing.jpg", "missing.jpg is not found"),
    ("clip.mp4", "clip.mp4 is a video: extract its frames"),
    ("clip.jpg", "clip.jpg is a video"),
    ("page.jpg", "page.jpg is a web page"),
    ("broken/a.jpg", "broken/a.jpg is"),
    ("broken", "none of the 2 pictures can be read"),
    ("texts", "texts has no pictures"),
    ("empty", "empty has no pictures"),
    ("flat/*.webp", "flat/*.webp matches nothing"),
    ("shard-{0..2}.tar", "shard-0.tar is not found"),
]


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(("source", "said"), PICTURES)
@pytest.mark.parametrize("verb", ["embed --out t.parquet", "features --out maps", "show --out maps"])
def test_pictures_that_are_none(verb: str, source: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in fails(f"{verb} --model {MODEL} --size 32 {source}", capsys)
    assert not Path("t.parquet").exists()
    assert not Path("t.parquet.parts").exists()


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--size 0", "--size is 0: give a whole number of pixels"),
        ("--size -5", "--size is -5"),
        ("--size x", "dinokit embed --help"),
        ("--size 3.5", "'3.5' is not a whole number: see dinokit embed --help"),
        ("--batch-size 2.5", "'2.5' is not a whole number"),
        ("--batch-size 0", "--batch-size is 0"),
        ("--out t.csv", "let its name end in .parquet"),
        ("--out flat", "flat is not a Parquet file"),
        ("--out file/t.parquet", "cannot write file (file is a file)"),
        ("--out /proc/nowhere/t.parquet", "/proc"),
        ("--model dinokit_vit16", "did you mean dinokit_vitt16?"),
        ("--model random:dinov3_vits61", "did you mean dinov3_vits16?"),
        ("--model dinov3_vitl16plus", "nobody published weights of dinov3_vitl16plus"),
        ("--model file", "not a weights file"),
        ("--model flat", "has no config.json"),
        ("--ouut x", "--out"),
        ("--tokens patch", "--tokens"),
        ("--dtype int8", "--dtype"),
        ("--ray 0", "--ray is 0"),
    ],
)
def test_embed_options(options: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = "" if "--out " in options else "--out t.parquet"
    before += "" if "--model" in options else f" --model {MODEL}"
    assert said in fails(f"embed flat {before} {options}", capsys)
    assert not Path("t.parquet.parts").exists()


def test_embed_into_a_folder(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "t.parquet").mkdir()
    assert "is a folder" in fails("embed flat --out t.parquet", capsys)


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--size 0", "size is 0"),
        ("--batch-size 0", "--batch-size is 0"),
        ("--format csv", "--format"),
        ("--out file", "cannot write file (file is a file)"),
        ("--out flat", "--out flat holds other files"),
        ("--device cuda:99", "this machine has no cuda:99 device"),
    ],
)
def test_features_options(options: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = "" if "--out" in options else "--out f"
    assert said in fails(f"features flat --model {MODEL} {out} {options}", capsys)
    assert not Path("f").exists()


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--size 0", "size is 0"),
        ("--out file", "file"),
        ("--model dinokit_vit16", "did you mean dinokit_vitt16?"),
        ("--device cuda:99", "this machine has no cuda:99 device"),
        ("--precision int3", "precision 'int3' is unknown"),
        ("--runtime tpu", "runtime 'tpu' is unknown: give torch or compile"),
    ],
)
def test_show_options(options: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = "" if "--model" in options else f"--model {MODEL}"
    assert said in fails(f"show flat {model} {options}", capsys)


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--bank labelled --query labelled --k 5", "k = 5 neighbours of a bank of 2"),
        ("--bank labelled --query labelled --k 0", "k = 0"),
        ("--bank labelled --query labelled --k 1.5", "'1.5' is not a whole number"),
        ("--bank flat --query labelled --k 1", "--bank flat has pictures without labels"),
        ("--bank labelled --query flat --k 1", "--query flat has pictures without labels"),
        ("--bank missing --query labelled", "missing is not found"),
        ("--bank labelled --query texts", "texts has no pictures"),
        ("--bank labelled --query labelled --k 1 --size 0", "size is 0"),
        ("--bank labelled", "dinokit knn --help"),
    ],
)
def test_knn(options: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    size = "" if "--size" in options else "--size 32"
    assert said in fails(f"knn {MODEL} {options} {size}", capsys)


@pytest.mark.parametrize(
    "verb", ["info w.pth", "embed flat --out t.parquet --model w.pth", "knn w.pth --bank a --query b"]
)
def test_a_checkpoint_of_the_wrong_size(verb: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = VisionTransformer(spec_of("dinokit_vitt16")).state_dict()
    torch.save({**state, "blocks.3.mlp.fc1.weight": torch.zeros(700, 192)}, place / "w.pth")
    line = fails(verb, capsys)
    assert "w.pth has blocks.3.mlp.fc1.weight of shape [700, 192], not [768, 192]" in line


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("embd flat", "embed"),
        ("embed", "dinokit embed --help"),
        ("info", "dinokit info --help"),
        ("info missing.pth", "there is no file or folder missing.pth: check the path"),
        ("info runs/of/missing", "there is no file or folder runs/of/missing: check the path"),
        ("info /dev/null", "/dev/null is neither a file nor a folder"),
        ("info DINOKIT_vitt16", "did you mean dinokit_vitt16?"),
        ("info dinov3_vitb17", "did you mean dinov3_vitb16?"),
        ("info random:DINOV3_VITB16", "did you mean dinov3_vitb16?"),
        ("info clip.jpg", "not a weights file"),
        ("demo missing", "missing is not found"),
        ("demo texts", "texts"),
        ("demo flat --size 0", "size is 0"),
        ("demo flat --size -5", "size is -5"),
        ("info random:dinokit_vitt16 --assume norm_eps", "norm_eps has no value: write --assume norm_eps=1e-6"),
        ("info random:dinokit_vitt16 --assume =1", "--assume =1 names no setting"),
        ("info random:dinokit_vitt16 --assume norm_eps=" + "[" * 5000, "norm_eps"),
        ("info random:dinokit_vitt16 --device cpu:x", "device 'cpu:x' is unknown"),
    ],
)
def test_other_verbs(command: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in fails(command, capsys)


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("missing", "missing is not found"),
        ("texts", "texts has no pictures"),
        ("empty", "empty has no pictures"),
        ("broken", "broken has no readable picture"),
        ("flat --preset enormous", "enormous"),
        ("flat --preset missing.toml", "missing.toml"),
        ("flat --set optimizer.speed=3", "speed"),
        ("flat --set nonsense", "nonsense"),
        ("flat --set run.batch=0", "batch"),
        ("flat --budget soon", "soon"),
        ("flat --seed 1.5", "'1.5' is not a whole number"),
        ("flat --budget 0h", "0h"),
        ("flat --weights 1 2", "weights"),
        ("flat --device toaster", "toaster"),
        ("flat --init missing.pth", "missing.pth"),
    ],
)
def test_pretrain(arguments: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in fails(f"pretrain --out run {arguments}", capsys).removeprefix("error: ")


def test_pretrain_into_a_file(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(place / "file", place / "run")
    assert "run is a file" in fails("pretrain flat --out run", capsys)


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("command", ["embed flat", "features flat", "show flat", "demo flat", "pretrain flat"])
def test_an_empty_out(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--out", ""]) == 2
    assert capsys.readouterr() == ("", "error: --out is empty: give a path\n")


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("command", "said"), [("info", "no model is given"), ("embed --out t.parquet", "no pictures were named")]
)
def test_an_empty_name(command: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), ""]) == 2
    assert capsys.readouterr().err.startswith(f"error: {said}")


@pytest.mark.parametrize(
    "command", ["embed flat --out t.parquet", f"knn {MODEL} --bank labelled --query labelled --k 1"]
)
def test_json_of_names_that_are_no_text(command: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = f" --model {MODEL}" if command.startswith("embed") else ""
    for folder in ("flat", "labelled/cat"):
        (place / folder / "x.\udcff").touch()
    assert main(f"{command}{model} --size 32 --json".split()) == 0
    assert json.loads(capsys.readouterr().out)["summary"].endswith(" .? (not read)")


@pytest.mark.usefixtures("place")
def test_knn_of_few_pictures_and_of_the_same_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(f"knn {MODEL} --bank labelled --query labelled --size 32 --json".split()) == 0
    captured = capsys.readouterr()
    assert (json.loads(captured.out)["k"], json.loads(captured.out)["shared"]) == (2, 2)
    assert captured.err == (
        "k = 2: the bank has no more pictures\n"
        "warning: 2 of the 2 query pictures are in the bank too and find themselves\n"
    )
