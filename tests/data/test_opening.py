"""Folders, shards and patterns as sets of pictures; hostile and broken archives."""

import gzip
import io
import re
import shutil
import tarfile
from pathlib import Path

import pytest

from dinokit.data import shards as shards_module
from dinokit.data import tar as tar_module
from dinokit.data.folder import Folder
from dinokit.data.listing import SkippedFiles
from dinokit.data.opening import open_pictures
from dinokit.data.pictures import subset
from dinokit.data.shards import Shards, split_key
from dinokit.errors import UserError
from dinokit.images.read import ReadError, read

PHOTOS = sorted((Path(__file__).parent.parent / "pictures").glob("*.jpg"))


def write_tar(path: Path, members: dict[str, bytes], zipped: bool = False) -> Path:
    with tarfile.open(path, "w:gz" if zipped else "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def samples(count: int, start: int = 0) -> dict[str, bytes]:
    members = {}
    for i in range(start, start + count):
        members[f"{i:05d}.jpg"] = PHOTOS[i % len(PHOTOS)].read_bytes()
        members[f"{i:05d}.cls"] = str(i % 3).encode()
    return members


def tree(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PHOTOS[number % len(PHOTOS)], root / name)
    return root


def test_the_first_folder_level_gives_the_labels(tmp_path: Path) -> None:
    pictures = open_pictures(tree(tmp_path, "dog/1.jpg", "cat/old/2.jpg", "cat/3.jpg"))
    assert pictures.classes == ("cat", "dog")
    assert [(pictures.key(i), pictures.label(i)) for i in range(3)] == [
        ("cat/3.jpg", 0),
        ("cat/old/2.jpg", 0),
        ("dog/1.jpg", 1),
    ]
    assert read(pictures.read_bytes(0)).shape[2] == 3


def test_sources_that_overlap_give_each_picture_once(tmp_path: Path) -> None:
    folder = tree(tmp_path, "1.jpg", "2.jpg")
    pictures = open_pictures([folder, folder / "1.jpg", str(folder / "*.jpg")])
    assert [Path(pictures.place(i)).name for i in range(len(pictures))] == ["1.jpg", "2.jpg"]


def test_a_picture_beside_the_folders_means_no_labels(tmp_path: Path) -> None:
    pictures = open_pictures(tree(tmp_path, "dog/1.jpg", "2.jpg"))
    assert pictures.classes == ()
    assert pictures.label(0) is None


def test_a_file_that_vanishes_is_a_read_error(tmp_path: Path) -> None:
    pictures = Folder(tree(tmp_path, "1.jpg"))
    (tmp_path / "1.jpg").unlink()
    with pytest.raises(ReadError, match=r"1\.jpg is not found"):
        pictures.read_bytes(0)


@pytest.mark.parametrize("zipped", [False, True])
def test_shards_give_pictures_labels_and_class_names(tmp_path: Path, zipped: bool) -> None:
    suffix = ".tar.gz" if zipped else ".tar"
    for number in range(2):
        write_tar(tmp_path / f"s-{number}{suffix}", samples(4, 4 * number), zipped)
    (tmp_path / "classes.txt").write_text("0\tn01\ttench\n1\tn02\tspringer\n")
    by_folder = open_pictures(tmp_path)
    by_braces = open_pictures(f"{tmp_path}/s-{{0..1}}{suffix}")
    by_glob = open_pictures(f"{tmp_path}/s-*{suffix}")
    by_list = open_pictures([tmp_path / f"s-0{suffix}", tmp_path / f"s-1{suffix}"])
    for pictures in (by_folder, by_braces, by_glob, by_list):
        assert len(pictures) == 8
        assert pictures.classes == ("tench", "springer", "2")
        for i in (7, 0, 3):
            assert pictures.key(i) == f"{i:05d}"
            assert pictures.label(i) == i % 3
            assert pictures.read_bytes(i) == PHOTOS[i % len(PHOTOS)].read_bytes()


def test_keys_end_at_the_first_dot_as_in_webdataset(tmp_path: Path) -> None:
    assert split_key("./a.b/c.d.JPG") == ("a.b/c", "d.jpg")
    jpeg = PHOTOS[0].read_bytes()
    members = {"x/1.jpg": jpeg, "x/1.seg.png": b"?", "y/1.WEBP": jpeg, "x/._1.jpg": b"?", "1.json": b"{}"}
    pictures = Shards([write_tar(tmp_path / "a.tar", members)])
    assert [pictures.key(i) for i in range(len(pictures))] == ["x/1", "y/1"]
    assert pictures.label(0) is None
    assert pictures.classes == ()


def test_bad_labels_and_doubled_keys_are_noted(tmp_path: Path) -> None:
    jpeg = PHOTOS[0].read_bytes()
    members = {"1.jpg": jpeg, "1.cls": b"cat", "2.jpg": jpeg, "2.cls": b"1", "2.png": b"", "3.jpg": jpeg}
    members |= {"3.cls": b"99999999999999999999"}
    skipped = SkippedFiles()
    pictures = open_pictures(write_tar(tmp_path / "a.tar", members), skipped)
    assert [pictures.label(i) for i in range(3)] == [None, 1, None]
    assert [Path(name).name for name, _ in skipped.entries] == ["1.cls", "2.png", "3.cls"]


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("share", [0.3, 0.55, 0.8])
def test_a_cut_archive_keeps_what_is_complete(tmp_path: Path, zipped: bool, share: float) -> None:
    data = write_tar(tmp_path / "whole.tar", samples(10), zipped).read_bytes()
    cut = tmp_path / ("cut.tar.gz" if zipped else "cut.tar")
    cut.write_bytes(data[: int(len(data) * share)])
    pictures = Shards([cut])
    assert 0 < len(pictures) < 10
    for i in range(len(pictures)):
        assert pictures.read_bytes(i) == PHOTOS[i % len(PHOTOS)].read_bytes()
    last = Path(pictures.place(len(pictures) - 1)).stem
    [(name, reason)] = pictures.skipped.entries
    assert name == str(cut)
    assert re.fullmatch(rf"is truncated or damaged \(what follows {last}\.(jpg|cls) is missing\)", reason)


@pytest.mark.parametrize("zipped", [False, True])
def test_an_archive_cut_in_its_first_picture_is_not_called_one_without_pictures(tmp_path: Path, zipped: bool) -> None:
    path = write_tar(tmp_path / "a.tar", samples(3), zipped)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"a\.tar is truncated or damaged \(before its first picture\)"):
        open_pictures(path)


def test_a_broken_shard_among_good_ones_is_noted(tmp_path: Path) -> None:
    write_tar(tmp_path / "1.tar", samples(3))
    (tmp_path / "2.tar").touch()
    (tmp_path / "3.tar").write_text("<html>" * 500)
    skipped = SkippedFiles()
    assert len(open_pictures(tmp_path, skipped)) == 3
    assert skipped.entries == [(f"{tmp_path}/2.tar", "is empty"), (f"{tmp_path}/3.tar", "is not a tar file")]


def test_an_archive_cut_between_two_members_is_noticed(tmp_path: Path) -> None:
    data = write_tar(tmp_path / "whole.tar", samples(4)).read_bytes()
    with tarfile.open(tmp_path / "whole.tar") as archive:
        third = archive.getmembers()[4]
    (tmp_path / "cut.tar").write_bytes(data[: third.offset])
    pictures = Shards([tmp_path / "cut.tar"])
    assert len(pictures) == 2
    assert "truncated" in pictures.skipped.summary()


def test_links_devices_and_climbing_names_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "evil.tar"
    jpeg = PHOTOS[0].read_bytes()
    with tarfile.open(path, "w") as archive:
        for kind, name in (
            (tarfile.SYMTYPE, "1.jpg"),
            (tarfile.LNKTYPE, "2.jpg"),
            (tarfile.CHRTYPE, "3.jpg"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        info = tarfile.TarInfo("../../escape.jpg")
        info.size = len(jpeg)
        archive.addfile(info, io.BytesIO(jpeg))
    before = sorted(tmp_path.parent.rglob("*"))
    pictures = Shards([path])
    assert [pictures.key(i) for i in range(len(pictures))] == ["../../escape"]
    assert [reason for _, reason in pictures.skipped.entries] == ["is a link", "is a link", "is no regular file"]
    assert pictures.read_bytes(0) == jpeg
    assert sorted(tmp_path.parent.rglob("*")) == before


def test_forged_sizes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = {"small.jpg": b"x" * 100, "large.jpg": b"x" * 5000, "last.jpg": b"y"}
    monkeypatch.setattr(tar_module, "MAX_BYTES", 1000)
    for zipped in (False, True):
        pictures = Shards([write_tar(tmp_path / "a.tar", members, zipped)])
        assert [pictures.key(i) for i in range(len(pictures))] == ["small", "last"]
        assert "larger than" in pictures.skipped.summary()
    info = tarfile.TarInfo("endless.jpg")
    info.size = 1 << 60
    (tmp_path / "forged.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(UserError, match=r"forged\.tar is truncated or damaged"):
        Shards([tmp_path / "forged.tar"])
    record = tarfile.TarInfo("name")
    record.type, record.size = tarfile.GNUTYPE_LONGNAME, 1 << 40
    (tmp_path / "name.tar").write_bytes(record.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(UserError, match=r"name\.tar"):
        Shards([tmp_path / "name.tar"])


def test_a_forged_negative_size_does_not_lead_in_circles(tmp_path: Path) -> None:
    data = bytearray(write_tar(tmp_path / "a.tar", samples(2)).read_bytes())
    with tarfile.open(tmp_path / "a.tar") as archive:
        last = archive.getmembers()[-1].offset
    data[last + 124 : last + 136] = b"\xff" * 10 + b"\xf0\x00"  # -4096, in base 256
    data[last + 148 : last + 156] = b" " * 8
    data[last + 148 : last + 156] = b"%06o\0 " % sum(data[last : last + 512])
    (tmp_path / "a.tar").write_bytes(data)
    pictures = Shards([tmp_path / "a.tar"])
    assert len(pictures) == 2
    assert "damaged" in pictures.skipped.summary()


@pytest.mark.parametrize("first", [True, False])
def test_a_thousand_long_names_in_a_row_are_damage(tmp_path: Path, first: bool) -> None:
    record = tarfile.TarInfo("././@LongLink")
    record.type, record.size = tarfile.GNUTYPE_LONGNAME, 5
    hostile = (record.tobuf(tarfile.GNU_FORMAT) + b"name\0".ljust(512, b"\0")) * 1000
    path = write_tar(tmp_path / "a.tar", samples(1))
    with tarfile.open(path) as archive:
        end = archive.getmembers()[-1].offset_data + 512
    path.write_bytes(hostile if first else path.read_bytes()[:end] + hostile)
    if first:
        with pytest.raises(UserError, match=r"a\.tar is not a tar file"):
            Shards([path])
    else:
        assert "damaged" in Shards([path]).skipped.summary()


def test_class_names_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", samples(1))
    (tmp_path / "classes.txt").write_bytes("Schäferhund".encode("latin-1"))
    with pytest.raises(UserError, match=r"classes\.txt cannot be read as UTF-8 text"):
        open_pictures(tmp_path / "a.tar")


def test_gzipped_shards_have_a_memory_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tar(tmp_path / "a.tar.gz", samples(10), zipped=True)
    monkeypatch.setattr(shards_module, "MAX_IN_MEMORY", 50_000)
    with pytest.raises(UserError, match=r"a\.tar\.gz is too large .* gunzip"):
        Shards([path])


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.SYMTYPE])
def test_empty_members_of_gzipped_shards_cost_memory_too(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        for number in range(200):
            info = tarfile.TarInfo(f"{number % 2}.jpg")
            info.type = kind
            archive.addfile(info)
    index = tar_module.index_tar(tmp_path / "a.tar.gz", lambda name: True, 1 << 20)
    assert index.bytes_in_memory > 200 * 1024
    with pytest.raises(UserError, match=r"a\.tar\.gz is too large to be kept in memory"):
        tar_module.index_tar(tmp_path / "a.tar.gz", lambda name: True, 100_000)


def test_gzipped_zeros_are_not_unzipped_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tar(tmp_path / "a.tar.gz", {"zeros.bin": bytes(1 << 22), **samples(1)}, zipped=True)
    assert len(Shards([path])) == 1
    monkeypatch.setattr(tar_module, "_SLACK", 1 << 20)
    monkeypatch.setattr(tar_module, "MAX_RATIO", 10)
    with pytest.raises(UserError, match=r"a\.tar\.gz unzips to more than 10 times its length"):
        Shards([path])


def test_one_name_for_all_members_is_not_kept_a_thousand_times(tmp_path: Path) -> None:
    name = "n" * 100_000 + ".jpg/"
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT, pax_headers={"path": name}) as archive:
        for number in range(50):
            archive.addfile(tarfile.TarInfo(f"{number}.jpg"))
    index = tar_module.index_tar(tmp_path / "a.tar", lambda name: True, 0)
    assert len(index.members) == 50
    assert sum(len(member.name) for member in index.members) < len(name) + 50 * 100


def test_the_headers_of_one_member_are_bounded_together(tmp_path: Path) -> None:
    record = tarfile.TarInfo("././@PaxHeader")
    record.type, record.size = tarfile.XGLTYPE, 200_000
    text = b"200000 comment=" + b"x" * (200_000 - 16) + b"\n"
    path = write_tar(tmp_path / "a.tar", samples(1))
    end = path.read_bytes()
    path.write_bytes((record.tobuf(tarfile.GNU_FORMAT) + text.ljust(200_192, b"\0")) * 6 + end)
    with pytest.raises(UserError, match=r"a\.tar is not a tar file"):
        Shards([path])
    path.write_bytes((record.tobuf(tarfile.GNU_FORMAT) + text.ljust(200_192, b"\0")) * 3 + end)
    assert len(Shards([path])) == 1


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "is empty"),
        (b"hello" * 300, "is not a tar file"),
        (gzip.compress(b"hello" * 300), "is not a tar file"),
    ],
    ids=["empty", "text", "gzipped text"],
)
def test_what_is_no_tar_is_refused(tmp_path: Path, data: bytes, sentence: str) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(data)
    with pytest.raises(UserError, match=rf"a\.tar {sentence}"):
        open_pictures(path)


def test_a_shard_that_changes_under_the_reader_is_a_read_error(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", samples(3))
    pictures = Shards([path])
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(ReadError, match="the shard has changed"):
        pictures.read_bytes(2)


def test_sources_without_pictures_are_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(UserError, match=f"{tmp_path.name} has no pictures"):
        open_pictures(tmp_path)
    with pytest.raises(UserError, match="nowhere is not found"):
        open_pictures(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no pictures were named"):
        open_pictures([])
    with pytest.raises(UserError, match=r"a\.tar has no pictures"):
        open_pictures(write_tar(tmp_path / "a.tar", {"1.txt": b"x"}))


def test_files_that_are_no_pictures_are_counted_by_extension(tmp_path: Path) -> None:
    tree(tmp_path / "a", "1.jpg")
    for name in ("2.PSD", "old/3.psd", "clip.mov", "LICENSE", "labels.csv", "1.json", ".hidden.mov"):
        (tmp_path / "a" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "a" / name).write_bytes(b"x")
    counted = "2 .psd (not read), 1 without extension (not read), 1 .mov (not read)"
    for source in (tmp_path / "a", f"{tmp_path}/a/**", [tmp_path / "a", tmp_path / "a/1.jpg"]):
        skipped = SkippedFiles()
        open_pictures(source, skipped)
        assert skipped.summary() == f"skipped 4 files: {counted}"
    for source in (tmp_path / "a/old", f"{tmp_path}/a/old/*", f"{tmp_path}/a/old/**"):
        with pytest.raises(UserError, match=r"has no pictures, skipped 1 file: 1 \.psd \(not read\)"):
            open_pictures(source)


def test_pictures_and_shards_are_not_mixed_in_silence(tmp_path: Path) -> None:
    tree(tmp_path, "1.jpg")
    write_tar(tmp_path / "a.tar", samples(1))
    with pytest.raises(UserError, match="both pictures and tar shards"):
        open_pictures(tmp_path)
    with pytest.raises(UserError, match="mixes pictures and tar shards"):
        open_pictures([tmp_path / "1.jpg", tmp_path / "a.tar"])


def test_one_picture_or_several_make_a_set(tmp_path: Path) -> None:
    tree(tmp_path, "1.jpg", "2.jpg")
    assert len(open_pictures(tmp_path / "1.jpg")) == 1
    assert len(open_pictures([tmp_path / "1.jpg", str(tmp_path / "2.jpg")])) == 2
    assert len(open_pictures(f"{tmp_path}/*.jpg")) == 2


def test_class_names_that_disagree_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_tar(tmp_path / name / "1.tar", samples(2))
        (tmp_path / name / "classes.txt").write_text(f"{name}\n")
    with pytest.raises(UserError, match="class names differ"):
        open_pictures(f"{tmp_path}/*/1.tar")


def test_a_subset_keeps_its_order(tmp_path: Path) -> None:
    pictures = Shards([write_tar(tmp_path / "a.tar", samples(6))])
    view = subset(pictures, [5, 2])
    assert [view.key(0), view.label(0), len(view)] == ["00005", 2, 2]
    assert view.read_bytes(1) == pictures.read_bytes(2)
