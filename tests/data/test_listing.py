"""Finding pictures by what a person types."""

from pathlib import Path

import pytest

from dinokit.data.listing import SkippedFiles, expand_braces, find_pictures
from dinokit.errors import UserError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def test_a_tree_is_listed_sorted_by_extension_without_hidden_files(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.JPG", "b/1.png", "a/3.webp", "c.tiff", "notes.txt", ".hidden.jpg", ".cache/4.jpg")
    found = [path.relative_to(tmp_path).as_posix() for path in find_pictures(tmp_path)]
    assert found == ["c.tiff", "a/3.webp", "b/1.png", "b/2.JPG"]


def test_a_file_a_glob_and_a_link_that_turns_in_circles(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "a/2.jpg", "a/3.txt", "b/deep/4.png")
    assert find_pictures(tmp_path / "a/3.txt") == [tmp_path / "a/3.txt"]
    assert [path.name for path in find_pictures(f"{tmp_path}/a/*")] == ["1.jpg", "2.jpg"]
    assert [path.name for path in find_pictures(f"{tmp_path}/**/*.png")] == ["4.png"]
    assert [path.name for path in find_pictures(f"{tmp_path}/a/{{2..1}}.jpg")] == ["2.jpg", "1.jpg"]
    (tmp_path / "a/loop").symlink_to(tmp_path)
    assert len(find_pictures(tmp_path)) == 3


def test_names_with_brackets_are_found_as_they_are(tmp_path: Path) -> None:
    touch(tmp_path, "shoot [1]/a{1}.jpg")
    assert len(find_pictures(tmp_path / "shoot [1]")) == 1
    assert len(find_pictures(str(tmp_path / "shoot [1]/a{1}.jpg"))) == 1


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere is not found"):
        find_pictures(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"b-02\.tar is not found"):
        find_pictures(str(tmp_path / "b-{02..03}.tar"))
    with pytest.raises(UserError, match=r"\*\.jpg matches nothing"):
        find_pictures(str(tmp_path / "*.jpg"))


def test_braces_expand_as_in_a_shell() -> None:
    assert expand_braces("b-{08..10}.tar") == ["b-08.tar", "b-09.tar", "b-10.tar"]
    assert expand_braces("{0000..0003}") == ["0000", "0001", "0002", "0003"]
    assert expand_braces("{9..11}") == ["9", "10", "11"]
    assert expand_braces("{a,b}-{1..2}") == ["a-1", "a-2", "b-1", "b-2"]
    assert expand_braces("plain {x} {}") == ["plain {x} {}"]
    for endless in ("{0..99999999999}", "{0..99999}{0..99999}"):
        with pytest.raises(UserError, match="at most"):
            expand_braces(endless)


def test_skipped_files_are_counted_and_listed() -> None:
    skipped = SkippedFiles()
    assert skipped.summary() == "skipped no files"
    for name, reason in (("a", "is empty"), ("b", "is truncated"), ("c", "is truncated")):
        skipped.add(name, reason)
    assert skipped.summary() == "skipped 3 files: 2 truncated, 1 empty"
    assert skipped.listing()[1] == "b is truncated"
    assert len(skipped) == 3


def test_a_long_list_of_skipped_files_is_cut() -> None:
    skipped = SkippedFiles()
    skipped.add("a", "is empty")
    skipped.add_others(Path(f"{number}.psd") for number in range(5000))
    assert skipped.summary() == "skipped 5,001 files: 5,000 .psd (not read), 1 empty"
    lines = skipped.listing()
    assert (len(lines), lines[0], lines[-1]) == (22, "a is empty", "and 4,980 more: .psd (not read)")
