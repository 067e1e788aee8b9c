"""`dinokit search` and `dinokit index` as a person types them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers_labels import NAMES, PICTURES
from PIL import Image

from dinokit.cli.app import main

pytestmark = pytest.mark.usefixtures("one_thread")
QUERY = str(PICTURES / f"{NAMES[0]}.jpg")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Embeddings of the test pictures, and of a copy of one of them made smaller."""
    folder = tmp_path_factory.mktemp("pictures")
    for name in NAMES:
        shutil.copy(PICTURES / f"{name}.jpg", folder)
    with Image.open(QUERY) as image:
        image.resize((image.width * 3 // 4, image.height * 3 // 4)).save(folder / "copy.jpg", quality=85)
    out = folder / "table.parquet"
    assert main(["embed", str(folder / "*.jpg"), "--out", str(out), "--size", "112", "--precision", "fp32"]) == 0
    return out


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    """What a command says as JSON."""
    capsys.readouterr()
    code = main([*map(str, arguments), "--json"])
    said = capsys.readouterr()
    assert code == 0, said.err
    return dict(json.loads(said.out))


def paths(found: dict[str, Any]) -> list[str]:
    return [Path(hit["path"]).name for hit in found["searches"][0]["hits"]]


def test_a_picture_finds_itself_and_its_copy(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = tmp_path / "sheet.jpg"
    found = run(capsys, "search", QUERY, "--in", table, "--k", 3, "--out", sheet, "--precision", "fp32")
    assert paths(found)[:2] == [f"{NAMES[0]}.jpg", "copy.jpg"]
    similarity = [hit["similarity"] for hit in found["searches"][0]["hits"]]
    assert similarity[0] == pytest.approx(1, abs=1e-3)
    assert similarity == sorted(similarity, reverse=True)
    with Image.open(sheet) as image:
        assert image.width > 300


def test_sheets_show_the_first_of_many_searches(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dinokit.tasks.hits.SHOWN_SEARCHES", 1)
    queries = [str(PICTURES / f"{name}.jpg") for name in NAMES[:3]]
    search = ["search", *queries, "--in", str(table), "--k", "1", "--precision", "fp32", "--out"]
    for name in ("sheet.png", "hits.csv"):
        assert main([*search, str(tmp_path / name)]) == 0
    assert [line.split(",")[0] for line in (tmp_path / "hits.csv").read_text().splitlines()] == ["query", *queries]
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.height < 2 * 2 * 224, "one search, and how many more there are"


def test_an_index_grows_shrinks_and_filters(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index, opening = tmp_path / "my.index", ("--precision", "fp32")
    assert run(capsys, "index", "build", index, "--from", table)["rows"] == len(NAMES) + 1
    assert run(capsys, "index", "add", index, PICTURES / f"{NAMES[1]}.jpg", *opening)["added"] == 1
    found = run(capsys, "index", "search", index, QUERY, "--k", 2, *opening)
    assert paths(found) == [f"{NAMES[0]}.jpg", "copy.jpg"]
    narrow = run(capsys, "index", "search", index, QUERY, "--k", 1, "--where", "width < 200", *opening)
    assert narrow["searches"][0]["hits"][0]["width"] < 200
    copy = str(table.parent / "copy.jpg")
    assert main(["index", "search", str(index), QUERY, "--out", copy, *opening]) == 2, "it is one of the pictures"
    groups = run(capsys, "index", "dedupe", index, "--threshold", 0.5)["groups"]
    assert any({Path(path).name for path in group} >= {f"{NAMES[0]}.jpg", "copy.jpg"} for group in groups)
    assert run(capsys, "index", "remove", index, "--where", "path LIKE '%copy.jpg'")["removed"] == 1
    assert "copy.jpg" not in paths(run(capsys, "index", "search", index, QUERY, *opening))


def test_a_table_of_one_picture_finds_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "one.parquet"
    assert main(["embed", QUERY, "--out", str(table), "--size", "112", "--precision", "fp32"]) == 0
    found = run(capsys, "search", QUERY, "--in", table, "--precision", "fp32")
    assert paths(found) == [f"{NAMES[0]}.jpg"]
    assert found["searches"][0]["hits"][0]["similarity"] == pytest.approx(1, abs=1e-3)
    index = tmp_path / "one.index"
    run(capsys, "index", "build", index, "--from", table)
    run(capsys, "index", "remove", index, "--where", "width > 0")
    assert main(["index", "search", str(index), QUERY]) == 2
    assert "is empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["search", "{query}", "--in", "none.parquet"], "none.parquet"),
        (["search", "{query}", "--in", "{table}", "--model", "random:dinokit_vitt16"], "dinokit_vitt16"),
        (["search", "{query}", "--in", "{table}", "--k", "1000"], "1000"),
        (["search", "none.jpg", "--in", "{table}"], "none.jpg"),
        (["search", "{query}", "--in", "{table}", "--out", "x.gif"], "x.gif"),
        (["search", "{copy}", "--in", "{table}", "--out", "{copy}"], "copy.jpg is one of the inputs"),
        (["search", "{query}", "--in", "{table}", "--out", "{copy}"], "copy.jpg is one of the inputs"),
        (["index", "dedupe", "{table}", "--out", "{copy}"], "copy.jpg is one of the inputs"),
        (["index", "search", "none.index", "{copy}", "--out", "{copy}"], "copy.jpg is one of the inputs"),
        (["index", "search", "none.index", "{query}"], "none.index"),
        (["index", "build", "{folder}", "--from", "{table}"], "there already"),
    ],
)
def test_mistakes_are_one_line(
    table: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    places = {"query": QUERY, "copy": f"{table.parent}/copy.jpg", "table": str(table), "folder": str(table.parent)}
    capsys.readouterr()
    code = main([argument.format(**places) for argument in arguments])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
