"""Pictures with maps beside them, in the folders that people have."""

import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from helpers_labels import NAMES, segmentation_folder

from dinokit.data.pairs import Pairs, open_pairs
from dinokit.errors import UserError


def stems(pairs: Pairs) -> list[str]:
    return [Path(pairs.map_file(i).name).stem for i in range(len(pairs))]


def test_pictures_find_their_maps_by_name(tmp_path: Path) -> None:
    pairs = open_pairs(segmentation_folder(tmp_path / "a"))
    assert stems(pairs) == [Path(pairs.place(i)).stem for i in range(len(pairs))] == NAMES
    assert pairs.class_names == ("background", "person", "thing")
    assert stems(pairs.part([2, 0])) == [NAMES[2], NAMES[0]]


def test_other_names_and_deeper_folders_are_found(tmp_path: Path) -> None:
    folder = segmentation_folder(tmp_path / "a")
    (folder / "images").rename(folder / "rgb")
    (folder / "masks").rename(folder / "labels")
    for kind in ("rgb", "labels"):
        (folder / kind / "day").mkdir()
        for path in list((folder / kind).glob(f"{NAMES[0]}.*")):
            path.rename(folder / kind / "day" / path.name)
    pairs = open_pairs(folder)
    assert len(pairs) == len(NAMES)
    assert {Path(file.name).parent.name for file in pairs.maps} == {"labels", "day"}


def test_a_table_names_both(tmp_path: Path) -> None:
    folder = segmentation_folder(tmp_path)
    rows = [f"images/{name}.jpg,masks/{name}.png" for name in NAMES[:2]]
    (folder / "list.csv").write_text("\n".join(["image,mask", *rows, ""]))
    assert stems(open_pairs(folder / "list.csv")) == NAMES[:2]
    (folder / "list.csv").write_text("\n".join(["image,mask,split", *(f"{row},train" for row in rows), ""]))
    assert stems(open_pairs(folder / "list.csv")) == NAMES[:2]
    (folder / "list.csv").write_text("\n".join(["images/mistyped.jpg,masks/a.png", rows[0]]))
    with pytest.raises(UserError, match=r"list\.csv, line 1: .*mistyped\.jpg is not found"):
        open_pairs(folder / "list.csv")
    (folder / "list.csv").write_text("\n".join(["image,mask", rows[0], f"images/{NAMES[1]}.jpg,masks/none.png"]))
    with pytest.raises(UserError, match=r"list\.csv, line 3: .*none\.png is not found"):
        open_pairs(folder / "list.csv")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    folder = segmentation_folder(tmp_path / "a")
    (folder / "masks" / f"{NAMES[3]}.png").unlink()
    with pytest.raises(UserError, match=f"{NAMES[3]}.jpg has no map"):
        open_pairs(folder)
    with pytest.raises(UserError, match="nothing is not found"):
        open_pairs(tmp_path / "nothing")
    with pytest.raises(UserError, match="no folder images/"):
        open_pairs(folder / "masks")
    (tmp_path / "empty" / "images").mkdir(parents=True)
    (tmp_path / "empty" / "masks").mkdir()
    with pytest.raises(UserError, match="has no pictures"):
        open_pairs(tmp_path / "empty")


def test_a_mixed_up_table_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("only\nx\n")
    with pytest.raises(UserError, match=r"a\.csv, line 2: 1 column, not two"):
        open_pairs(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_bytes(b"image,mask\n\xff\xfe\x00,x\n")
    with pytest.raises(UserError, match="cannot be read"):
        open_pairs(tmp_path / "b.csv")


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_shards_of_pairs_are_those_of_their_folder(tmp_path: Path, ending: str) -> None:
    folder = segmentation_folder(tmp_path / "a")
    shards = [tmp_path / f"s-{number}.{ending}" for number in range(2)]
    for number, path in enumerate(shards):
        with tarfile.open(path, "w:gz" if ending == "tar.gz" else "w") as tar:
            for name in NAMES[number::2]:
                tar.add(folder / "masks" / f"{name}.png", f"{name}.mask.png")
                tar.add(folder / "images" / f"{name}.jpg", f"{name}.jpg")
    shutil.copy(folder / "classes.txt", tmp_path)
    pairs, expected = open_pairs(tmp_path / f"s-{{0..1}}.{ending}"), open_pairs(folder)
    assert (len(pairs), pairs.class_names) == (len(NAMES), expected.class_names)
    for i in range(len(pairs)):
        other = NAMES.index(pairs.key(i))
        assert np.array_equal(pairs.read_map(i, 255), expected.read_map(other, 255))
        assert np.array_equal(pairs.decoded(3)[i], expected.decoded(3)[other])
    if ending == "tar":
        shards[0].write_bytes(shards[0].read_bytes()[:-40_000])
        with pytest.warns(UserWarning, match="skipped 1 file"):
            assert 4 < len(open_pairs(tmp_path / "s-{0..1}.tar")) < len(NAMES)
    with tarfile.open(shards[0], "w") as tar:
        tar.add(folder / "images" / f"{NAMES[0]}.jpg", f"{NAMES[0]}.jpg")
    with pytest.raises(UserError, match=rf"{NAMES[0]}\.jpg has no map beside it: call it KEY\.mask\.png"):
        open_pairs(shards[0])
