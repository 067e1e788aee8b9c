"""Labelled pictures: folders, and CSV files with every fault that people make."""

import tarfile
from pathlib import Path

import pytest
from PIL import Image

from dinokit.data.labelled import open_labelled
from dinokit.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        Image.new("RGB", (16, 16)).save(tmp_path / f"{name}.png")
    return tmp_path


def write(folder: Path, text: str) -> Path:
    path = folder / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("header", ["", "path,label\n", "\ufefffile,class\n"])
def test_one_label_a_picture_with_or_without_a_header(folder: Path, header: str) -> None:
    found = open_labelled(write(folder, f"{header}a.png,cat\n\nb.png, dog \nc.png,cat\n"))
    assert (found.classes, found.labels, found.several) == (("cat", "dog"), ((0,), (1,), (0,)), False)
    assert found.pictures.place(1).endswith("b.png")


def test_several_labels_or_none(folder: Path) -> None:
    found = open_labelled(write(folder, "path,labels\na.png,cat;dog;cat\nb.png,\nc.png,tree\n"))
    assert found.several
    assert found.labels == ((0, 1), (), (2,))
    assert found.targets().tolist() == [[True, True, False], [False, False, False], [False, False, True]]
    assert found.part([2]).labels == ((2,),)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,label\na.png,cat\nb.png\n", r"labels\.csv, line 3: 1 column, not two"),
        ("path,label\na.png,cat,dog\n", "line 2: 3 columns, not two: .*;label for several"),
        ("path,label\na.png,cat\nz.png,dog\n", r"line 3: .*z\.png is not found"),
        ("path,label\na.png,cat\nb.png,\n", "line 3: there is no label"),
        ("path,label\n", "has no pictures"),
        ("", "has no pictures"),
    ],
)
def test_faults_of_a_csv_file_name_the_line(folder: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        open_labelled(write(folder, text))


def test_what_is_no_text_is_refused(folder: Path) -> None:
    path = folder / "labels.csv"
    for content in (b"\xff\xfe\x00a.png", b"a.png,\0\n" + b"x" * 300_000):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"labels\.csv"):
            open_labelled(path)
    with pytest.raises(UserError, match=r"none\.csv cannot be read"):
        open_labelled(folder / "none.csv")


def test_pictures_without_labels_are_named(folder: Path) -> None:
    with pytest.raises(UserError, match=r"has pictures without labels, such as .*a\.png"):
        open_labelled(folder)


def test_a_cut_shard_is_said(folder: Path) -> None:
    shard = folder / "s.tar"
    with tarfile.open(shard, "w") as tar:
        for number, name in enumerate("abc"):
            (folder / f"{name}.cls").write_text(str(number % 2))
            for ending in ("cls", "png"):
                tar.add(folder / f"{name}.{ending}", f"{name}.{ending}")
    whole = shard.read_bytes()
    assert len(open_labelled(shard)) == 3
    shard.write_bytes(whole[: whole.index(b"c.png") + 560])
    with pytest.warns(UserWarning, match=r"s\.tar: skipped 1 file: 1 "):
        assert len(open_labelled(shard)) == 2


def test_classes_are_the_same_where_their_names_are(folder: Path) -> None:
    found = open_labelled(write(folder, "a.png,cat\nb.png,dog\n"))
    assert found.in_classes(("bird", "cat", "dog"), several=False).labels == ((1,), (2,))
    with pytest.raises(UserError, match="has the class 'cat' and 1 more, which the training did not have"):
        found.in_classes(("bird",), several=False)
