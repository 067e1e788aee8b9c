"""`dinokit embed`: right rows in the right order, and nothing lost when it is stopped halfway."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers_faults import Killed, killed_at, moments
from PIL import Image

from dinokit.checkpoints.folders import hold
from dinokit.errors import UserError
from dinokit.inference import embedding_table, stream
from dinokit.inference.backbone import load
from dinokit.inference.embed import EmbedSettings, embed_pictures

pytestmark = pytest.mark.usefixtures("one_thread")

MODEL = "random:dinokit_vitt16"
REAL = Path(__file__).parents[1] / "pictures"
SLOW = """
import signal, sys, time, torch
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have switched it off
from pathlib import Path
from dinokit.inference import embedding_table
from dinokit.inference.backbone import Backbone
torch.set_num_threads(1)
photos, part, out, model = sys.argv[1:]
embedding_table.PART_PICTURES = int(part)
work, begun = Backbone.encode_views, []
def slow(*arguments):
    begun.append(1)
    Path(out + ".begun-" + str(len(begun))).touch()
    time.sleep(0.05)
    return work(*arguments)
Backbone.encode_views = slow
from dinokit.cli.app import main
sys.exit(main(["embed", photos, "--out", out, "--model", model, "--size", "64", "--batch-size", "1"]))
"""


def embed(source: Path, out: Path, **options: Any) -> dict[str, Any]:
    def track(items: Iterable[int], total: int, label: str, done: int) -> Iterable[int]:
        count = done
        for item in items:
            count += 1
            yield item
        assert count == total, label

    backbone = load(options.pop("model", MODEL), **options.pop("assume", {}))
    say = options.pop("say", print)
    settings = EmbedSettings(**{"size": 64, "batch_size": 1, **options})
    return embed_pictures([str(source)], out, backbone, settings, track, say)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 pictures of several shapes, three more that are none; names sort as they are numbered."""
    folder = tmp_path_factory.mktemp("photos")
    dice = np.random.default_rng(0)
    for number in range(52):
        shape = [(40, 60), (60, 40), (48, 48)][number % 3]
        pixels = np.kron(dice.integers(0, 256, (4, 4, 3), dtype=np.uint8), np.ones((16, 16, 1), np.uint8))
        Image.fromarray(pixels[: shape[0], : shape[1]]).save(folder / f"{number:03d}.png")
    for number, real in enumerate(sorted(REAL.glob("*.jpg"))):
        (folder / f"{52 + number:03d}.jpg").write_bytes(real.read_bytes())
    (folder / "010-cut.jpg").write_bytes((folder / "052.jpg").read_bytes()[:3000])
    (folder / "020-text.png").write_text("no picture")
    (folder / "030-empty.jpg").touch()
    return folder


@pytest.fixture(scope="module")
def undisturbed(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    out = tmp_path_factory.mktemp("whole") / "a.parquet"
    embed(photos, out)
    table: pa.Table = pq.read_table(out)
    return table


def assert_same(found: pa.Table, expected: pa.Table) -> None:
    """Equal to rounding: another process may have chosen another form of attention."""
    assert found.schema.equals(expected.schema, check_metadata=True)
    assert found.drop_columns("embedding").equals(expected.drop_columns("embedding"))
    rows, right = (np.stack(table["embedding"].to_numpy()) for table in (found, expected))
    distances = np.linalg.norm(rows - right, axis=1) / np.linalg.norm(right, axis=1)
    assert distances.max() < 0.02  # in bfloat16


def test_rows_are_those_of_encode_in_order(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.parquet"
    summary = embed(photos, out, batch_size=16)
    assert (summary["rows"], summary["skipped"], summary["dimensions"]) == (60, 3, 192)
    assert sorted(os.listdir(tmp_path)) == ["a.parquet", "a.parquet.errors.jsonl"]
    table = pq.read_table(out)
    names = [path.name for path in sorted(photos.iterdir()) if "-" not in path.name]
    assert table.column("path").to_pylist() == [f"{photos}/{name}" for name in names]
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 192)
    backbone = load(MODEL)
    for row in (0, 1, 55):
        features = backbone.encode(photos / names[row], size=64)
        expected = features.cls[0].numpy()
        found = np.array(table.column("embedding")[row].as_py())
        assert np.linalg.norm(found - expected) < 0.02 * np.linalg.norm(expected)  # bfloat16, other batches
        assert features.grid is not None
        assert features.grid.sizes[0] == (table["height"][row].as_py(), table["width"][row].as_py())


def test_the_mean_patch_is_a_column_beside_the_class_token_or_in_its_place(photos: Path, tmp_path: Path) -> None:
    one = sorted(photos.glob("*.jpg"))[-1]
    features = load(MODEL).encode(one, size=64)
    expected = {"embedding": features.cls[0], "mean_patch": features.patches[0].mean(dim=(0, 1))}
    embed(one, tmp_path / "both.parquet", tokens="cls+mean")
    both = pq.read_table(tmp_path / "both.parquet")
    assert both.column_names == ["path", "width", "height", "embedding", "mean_patch"]
    for name, right in expected.items():
        np.testing.assert_allclose(both[name][0].as_py(), right.numpy(), atol=0.02)
    embed(one, tmp_path / "mean.parquet", tokens="mean")
    mean = pq.read_table(tmp_path / "mean.parquet")
    assert mean.column_names == ["path", "width", "height", "embedding"]
    assert mean["embedding"].equals(both["mean_patch"])


def test_float16_rounds_and_halves(photos: Path, undisturbed: pa.Table, tmp_path: Path) -> None:
    embed(photos, tmp_path / "a.parquet", dtype="float16")
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.schema.field("embedding").type == pa.list_(pa.float16(), 192)
    found, right = (np.stack(t["embedding"].to_numpy()).astype(np.float32) for t in (table, undisturbed))
    assert np.linalg.norm(found - right, axis=1).max() < 0.02 * np.linalg.norm(right, axis=1).min()
    column = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0).column(3)
    assert "BYTE_STREAM_SPLIT" not in column.encodings  # DuckDB 2.0 does not read float16 so


def test_numbers_beyond_float16_are_refused(tmp_path: Path) -> None:
    columns = embedding_table.VectorColumns(("embedding",), 2, "float16")
    folder = embedding_table.PartFolder(tmp_path / "a.parquet", {"model": "x"}, columns)
    rows = [
        embedding_table.Row(name, 1, 1, (np.array([1, value], np.float32),)) for name, value in (("a", 1), ("b", 7e4))
    ]
    folder.add(rows)
    with pytest.raises(UserError, match="features of b are no finite float16 numbers: give --dtype float32"):
        folder.flush()


def test_a_large_photograph_has_its_own_size_and_almost_its_exact_row(tmp_path: Path) -> None:
    """It is decoded smaller than it is; portrait by its EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = Image.open(REAL / "000000000790.jpg")
    photo.resize((1200, 800), Image.Resampling.BICUBIC).save(tmp_path / "a.jpg", exif=exif, quality=95)
    embed(tmp_path / "a.jpg", tmp_path / "a.parquet")
    [row] = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert (row["width"], row["height"]) == (800, 1200)
    right = load(MODEL).encode(tmp_path / "a.jpg", size=64).cls[0].numpy()
    cosine = np.dot(row["embedding"], right) / np.linalg.norm(row["embedding"]) / np.linalg.norm(right)
    assert cosine > 0.999


def test_a_hundred_times_the_pictures_take_no_more_memory(photos: Path, tmp_path: Path) -> None:
    """What lives at a time: the views of two chunks and the rows of a part; chunks are small here."""
    picture = (photos / "000.png").read_bytes()
    for number in range(600):
        (tmp_path / f"{number:03d}.png").write_bytes(picture)
    peaks = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "CHUNK_PICTURES", 8)
        patch.setattr(embedding_table, "PART_PICTURES", 16)
        patch.setattr(stream.Stream, "view", counting(stream.Stream.view, peaks))
        embed(tmp_path, tmp_path / "a.parquet", size=32, batch_size=4)
    assert len(peaks) == 600
    assert max(peaks) <= 3 * 8  # the chunk that is looked at, the one ahead, and what the collector has not seen


def counting(view: Any, living: list[int]) -> Any:
    """`view` that notes how many of its tensors are alive."""
    tensors: weakref.WeakSet[Any] = weakref.WeakSet()

    def work(*arguments: Any) -> Any:
        found = view(*arguments)
        tensors.add(found.pixels)
        living.append(len(tensors))
        return found

    return work


def test_unreadable_pictures_are_listed(photos: Path, tmp_path: Path) -> None:
    summary = embed(photos, tmp_path / "a.parquet")
    lines = (tmp_path / "a.parquet.errors.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"path": f"{photos}/010-cut.jpg", "reason": "is truncated"},
        {"path": f"{photos}/020-text.png", "reason": "is not a picture"},
        {"path": f"{photos}/030-empty.jpg", "reason": "is empty"},
    ]
    assert summary["summary"].startswith("skipped 3 files")


def test_the_file_says_how_it_was_made(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_table, "ROW_GROUP", 25)
    monkeypatch.setattr(embedding_table, "PART_PICTURES", 7)
    embed(photos, tmp_path / "a.parquet")
    file = pq.ParquetFile(tmp_path / "a.parquet")
    said = {key.decode(): value.decode() for key, value in file.schema_arrow.metadata.items()}
    assert said["dinokit.model"] == MODEL
    assert said["dinokit.size"] == "64"
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [25, 25, 10]
    column = file.metadata.row_group(0).column(3)
    assert (column.path_in_schema, column.compression) == ("embedding.list.element", "ZSTD")
    assert "BYTE_STREAM_SPLIT" in column.encodings


@pytest.mark.parametrize(("stop", "part"), [(signal.SIGINT, 1000), (signal.SIGINT, 8), (signal.SIGKILL, 8)])
def test_stopped_halfway_and_continued(
    stop: signal.Signals, part: int, photos: Path, undisturbed: pa.Table, tmp_path: Path
) -> None:
    out, parts = tmp_path / "a.parquet", tmp_path / "a.parquet.parts"
    arguments = [sys.executable, "-c", SLOW, str(photos), str(part), str(out), MODEL]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not Path(f"{out}.begun-20").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(stop)
        stderr = process.communicate(timeout=60)[1]
    assert process.returncode == (130 if stop == signal.SIGINT else -signal.SIGKILL), stderr
    assert not out.exists()
    if stop == signal.SIGINT:
        assert "the same command continues" in stderr
        assert "Traceback" not in stderr
    said: list[str] = []
    summary = embed(photos, out, say=said.append)
    assert 0 < summary["continued"] < 63
    assert said == [f"going on after {summary['continued']} pictures"]
    assert_same(pq.read_table(out), undisturbed)
    assert not parts.exists()


def test_killed_at_any_of_twenty_moments_and_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_table, "PART_PICTURES", 1)
    (tmp_path / "p").mkdir()
    for photo in REAL.glob("*.jpg"):
        (tmp_path / "p" / photo.name).write_bytes(photo.read_bytes())
    (tmp_path / "p" / "000000001000.jpg").write_bytes(b"\xff\xd8\xff")
    with killed_at(10**9) as left:
        embed(tmp_path / "p", tmp_path / "whole.parquet")
    out, whole = tmp_path / "a.parquet", pq.read_table(tmp_path / "whole.parquet")
    for moment in moments(10**9 - left[0]):
        with pytest.raises(Killed), killed_at(moment):
            embed(tmp_path / "p", out)
        assert embed(tmp_path / "p", out)["rows"] == 8
        assert_same(pq.read_table(out), whole)
        assert len(Path(f"{out}.errors.jsonl").read_text().splitlines()) == 1
        assert not embedding_table.parts_of(out).exists()
        out.unlink()


def embed_into_parts(photos: Path, out: Path) -> Path:
    """All but the last step, in parts of 16; returns their folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding_table, "PART_PICTURES", 16)
        patch.setattr(embedding_table.PartFolder, "finish", lambda self: 0)
        embed(photos, out)
    return embedding_table.parts_of(out)


def test_a_damaged_part_is_made_again(photos: Path, undisturbed: pa.Table, tmp_path: Path) -> None:
    out = tmp_path / "a.parquet"
    second = embed_into_parts(photos, out) / "part-000000016-000000032.parquet"
    second.write_bytes(second.read_bytes()[:-20])
    assert embed(photos, out)["continued"] == 16
    assert_same(pq.read_table(out), undisturbed)


def test_a_part_with_damaged_rows_is_removed_and_made_again(
    photos: Path, undisturbed: pa.Table, tmp_path: Path
) -> None:
    out = tmp_path / "a.parquet"
    second = embed_into_parts(photos, out) / "part-000000016-000000032.parquet"
    content = bytearray(second.read_bytes())
    content[4:2000] = bytes(1996)  # the footer stays whole
    second.write_bytes(content)
    with pytest.raises(UserError, match=r"part-000000016-000000032\.parquet was damaged and is removed: run again"):
        embed(photos, out)
    assert embed(photos, out)["continued"] == 16
    assert_same(pq.read_table(out), undisturbed)


def test_two_processes_do_not_write_one_table(photos: Path, tmp_path: Path) -> None:
    out, parts = tmp_path / "a.parquet", tmp_path / "a.parquet.parts"
    with hold(parts, "at work"), pytest.raises(UserError, match=r"another process is at work in .*a\.parquet\.parts"):
        embed(photos, out)
    assert not parts.exists(), "nothing was written there"
    assert embed(photos, out)["rows"] == 60


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"size": 32}, "size"),
        ({"tokens": "cls+mean"}, "tokens"),
        ({"dtype": "float16"}, "dtype"),
        ({"model": MODEL + ":7"}, "model"),
        ({"assume": {"norm_eps": 1e-3}}, "network_sha256"),
        ({"assume": {"mean": [0.5, 0.5, 0.5]}}, "network_sha256"),
    ],
)
def test_the_parts_of_another_job_are_left_alone(
    other: dict[str, Any], named: str, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "a.parquet"
    embed_into_parts(photos, out)
    with pytest.raises(UserError, match=f"another job .other {named}.: .*choose another --out"):
        embed(photos, out, **other)
    assert embed(photos, out)["continued"] == 63


def test_parts_without_a_readable_picture(tmp_path: Path) -> None:
    row = embedding_table.Row
    columns = embedding_table.VectorColumns(("embedding",), 2, "float32")
    folder = embedding_table.PartFolder(tmp_path / "a.parquet", {"model": "x"}, columns)
    for rows in (
        [row("a", 1, 2, (np.ones(2, np.float32),)), row("b", unreadable="is empty")],
        [row("c", unreadable="is empty")],
        [row("d", 3, 4, (np.zeros(2, np.float32),))],
    ):
        folder.add(rows)
        folder.flush()
    assert len(folder.parts) == 3
    assert folder.done == 4
    assert list(folder.unreadable()) == [("b", "is empty"), ("c", "is empty")]
    assert folder.finish() == 2
    assert pq.read_table(tmp_path / "a.parquet").column("path").to_pylist() == ["a", "d"]


def test_a_strip_of_too_many_patches_is_skipped(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (32, 32)).save(folder / "a.png")
    Image.new("RGB", (12_000, 1)).save(folder / "strip.png")
    summary = embed(folder, tmp_path / "a.parquet", size=448)
    assert (summary["rows"], summary["summary"]) == (1, "skipped 1 file: 1 has too many patches at size 448")
    with pytest.raises(UserError, match=r"strip\.png has too many patches at size 448: .*smaller size"):
        embed(folder / "strip.png", tmp_path / "b.parquet", size=448)


def test_file_names_that_are_no_text(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("caf\udce9.png", r"caf\xe9.png", "line\nbreak.png", r"back\slash.png"):
        Image.new("RGB", (32, 32)).save(folder / "a.png")
        os.rename(folder / "a.png", folder / name)
    (folder / "z\udcff.jpg").touch()
    (folder / "x.\udcff").touch()
    assert embed(folder, tmp_path / "a.parquet")["rows"] == 4
    found = pq.read_table(tmp_path / "a.parquet").column("path").to_pylist()
    names = [r"back\slash.png", r"caf\\xe9.png", r"caf\xe9.png", "line\nbreak.png"]
    assert sorted(Path(path).name for path in found) == names
    lines = [json.loads(line) for line in (tmp_path / "a.parquet.errors.jsonl").read_text().splitlines()]
    assert [Path(line["path"]).name for line in lines] == [r"x.\xff", r"z\xff.jpg"]
    assert [line["reason"] for line in lines] == [r"is .\xff (not read)", "is empty"]


def test_members_of_shards_are_named_with_their_shard(tmp_path: Path) -> None:
    for number in range(2):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as archive:
            archive.add(REAL / "000000000790.jpg", "x/1.jpg")
    assert embed(tmp_path, tmp_path / "a.parquet")["rows"] == 2
    paths = pq.read_table(tmp_path / "a.parquet").column("path").to_pylist()
    assert paths == [f"{tmp_path}/0.tar/x/1.jpg", f"{tmp_path}/1.tar/x/1.jpg"]


@pytest.mark.parametrize("length", [245, 300])
def test_a_name_that_is_too_long_is_said_before_the_work(length: int, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write .* .File name too long.: .*shorter name"):
        embed(photos, tmp_path / ("n" * length + ".parquet"))
    assert not list(tmp_path.iterdir())
