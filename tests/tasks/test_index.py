"""An index that grows: additions, removals, filters, cells of large ones, and what is refused."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers_pictures import PHOTOS

from dinokit.errors import UserError
from dinokit.heads import ivf
from dinokit.inference.backbone import Backbone, load
from dinokit.inference.embed import EmbedSettings, embed_pictures
from dinokit.inference.lance_store import VECTOR
from dinokit.tasks import retrieve
from dinokit.tasks.index import Index, open_searchable
from dinokit.tasks.retrieve import Collection

pytest.importorskip("lancedb")
pytest.importorskip("faiss")
pytestmark = pytest.mark.usefixtures("one_thread")
SIZE, WIDTH = 64, 192


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load("dinokit_vitt16")


@pytest.fixture(scope="module")
def table(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first five photos, with a column for filters."""
    path = tmp_path_factory.mktemp("table") / "t.parquet"
    embed_pictures([str(p) for p in PHOTOS[:5]], path, backbone, EmbedSettings(SIZE), lambda items, *_: items, print)
    whole = pq.read_table(path)
    pq.write_table(whole.append_column("stars", pa.array(range(5), pa.int32())), path)
    return path


@pytest.fixture
def index(table: Path, backbone: Backbone, tmp_path: Path) -> Index:
    return Index.build(tmp_path / "photos.index", Collection(table, backbone))


def make_rows(count: int, name: str, seed: int = 0) -> pa.Table:
    vectors = np.random.default_rng(seed).standard_normal((count, WIDTH)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    sides = pa.array([8] * count, pa.int32())
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), WIDTH)
    columns = {"path": [f"{name}/{n}" for n in range(count)], "width": sides, "height": sides, "stars": sides}
    return pa.table({**columns, VECTOR: column})


@pytest.mark.parametrize("least", [0, 4])
def test_an_index_finds_what_the_table_finds(
    table: Path, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least: int
) -> None:
    monkeypatch.setattr(retrieve, "LEAST_TO_WHITEN", least)
    index = Index.build(tmp_path / "photos.index", Collection(table, backbone))
    assert (index.whitening is None) == (least > 0)
    for path in PHOTOS[:5]:
        hits, expected = index.search(path, k=5), Collection(table, backbone).search(path, k=5)
        assert hits.paths == expected.paths
        np.testing.assert_allclose(hits.similarity, expected.similarity, atol=1e-5)


def test_it_grows_shrinks_and_renews(index: Index, backbone: Backbone, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    other = Index(index.place)  # sees what the first one changes
    summary = index.add([str(PHOTOS[6]), str(PHOTOS[0]), str(tmp_path / "broken.jpg")])
    assert (summary["added"], summary["skipped"], len(other)) == (2, 1, 6)
    assert index.search(PHOTOS[6], k=1).similarity[0] == pytest.approx(1, abs=2e-3)
    assert index.add([str(PHOTOS[6]), str(PHOTOS[6].parent / PHOTOS[6].name)])["added"] == 1
    assert index.remove([str(PHOTOS[6])]) == 1
    assert index.remove(where="stars >= 3") == 2
    assert len(other) == 3
    with pytest.raises(UserError, match=r"has no picture no'thing\.jpg"):
        index.remove(["no'thing.jpg"])
    with pytest.raises(UserError, match="what to remove is not clear"):
        index.remove()
    with pytest.raises(UserError, match=r"broken\.jpg"):
        index.add(str(tmp_path / "broken.jpg"))


def test_filters(index: Index) -> None:
    hits = index.search(PHOTOS[0], k=5, where="stars IN (1, 3) AND width > 10")
    assert sorted(hits.paths) == sorted(str(PHOTOS[n]) for n in (1, 3))
    assert len(index.search(PHOTOS[0], k=5, where="width > 100000")) == 0
    for where in ("widht > 3", "width > > 3", "path > 3", ""):
        with pytest.raises(UserError, match="cannot be understood") as error:
            index.search(PHOTOS[0], where=where)
        assert "\n" not in str(error.value)


def test_near_duplicates_leave_the_index(index: Index, tmp_path: Path) -> None:
    shutil.copy(PHOTOS[2], tmp_path / "copy.jpg")
    index.add(str(tmp_path / "copy.jpg"))
    found = index.duplicates()
    assert [set(group) for group in found.groups] == [{str(PHOTOS[2]), str(tmp_path / "copy.jpg")}]
    assert index.remove(found.extra) == 1
    assert index.duplicates().groups == ()


def test_a_path_that_a_table_has_twice_is_one_picture(table: Path, backbone: Backbone, tmp_path: Path) -> None:
    rows = pq.read_table(table)
    pq.write_table(pa.concat_tables([rows, rows]), tmp_path / "twice.parquet")
    doubled = Collection(tmp_path / "twice.parquet", backbone)
    assert doubled.duplicates().groups == ()
    index = Index.build(tmp_path / "twice.index", doubled)
    assert (len(index), index.duplicates().groups) == (5, ())
    assert index.search(PHOTOS[3], 1).paths == (str(PHOTOS[3]),)


def test_cells_of_a_large_index_follow_its_changes(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ivf, "ROWS", 300)
    index.store.put(make_rows(2000, "a"))
    assert ivf.open_ivf(index.store) is None, "nobody has made them"
    ivf.renew_ivf(index.store)
    index.store.put(make_rows(100, "b", 1))
    index.store.remove("path LIKE 'a/1__'")
    assert ivf.open_ivf(index.store) is None, "they are those of an older version"
    query = np.random.default_rng(1).standard_normal((100, WIDTH)).astype(np.float32)[7]
    query /= np.linalg.norm(query)
    exact = index.store.nearest(query, 10, None, ["path"])
    assert exact[0]["path"] == "b/7"
    monkeypatch.setattr(ivf, "_build", lambda store: pytest.fail("few changes are carried over"))
    ivf.renew_ivf(index.store)
    cells = ivf.open_ivf(index.store)
    assert cells is not None
    similarity, ids = cells.nearest(query, 10)
    assert index.store.take(ids[:1].tolist(), ["path"]) == [{"path": "b/7"}]
    assert cells.rows(ids) == index.store.take(ids.tolist(), ["path", "width", "height"])
    assert similarity[0] == pytest.approx(1, abs=1e-5)
    assert len({*ids.tolist()} & {*index.store.ids().tolist()}) == len(ids), "what is gone is not found"
    assert len(list(index.place.glob("ivf-*"))) == 2
    next(index.place.glob("ivf-*.faiss")).write_bytes(b"junk")
    assert ivf.open_ivf(index.store) is None, "damaged cells are not used"


def test_cells_find_nearly_all_neighbours(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ivf, "ROWS", 300)
    index.store.put(make_rows(3000, "a"))
    ivf.renew_ivf(index.store)
    cells, shares = ivf.open_ivf(index.store), []
    assert cells is not None
    for query in np.array(make_rows(40, "q", 5)[VECTOR].to_pylist(), np.float32):
        found = {row["path"] for row in index.store.take(cells.nearest(query, 10)[1].tolist(), ["path"])}
        exact = {row["path"] for row in index.store.nearest(query, 10, None, ["path"])}
        shares.append(len(found & exact) / 10)
    assert np.mean(shares) > 0.95


WRITER = """
import sys
from pathlib import Path
import pyarrow as pa
from dinokit.inference.lance_store import LanceStore
store = LanceStore(Path(sys.argv[1]))
rows = store._table.head(4)
for n in range(1000):
    names = pa.array([f"{sys.argv[2]}-{n}-{i}" for i in range(4)])
    store.put(rows.set_column(0, "path", names))
"""


def test_a_killed_writer_leaves_a_whole_index(index: Index) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(index.place), name]) for name in ("x", "y")]
    deadline = time.monotonic() + 60
    while len(index) < 40 and time.monotonic() < deadline:
        time.sleep(0.02)
    for writer in writers:
        assert writer.poll() is None
        writer.kill()
        writer.wait()
    assert len(index) >= 40
    assert (len(index) - 5) % 4 == 0, "whole additions"
    index.add(str(PHOTOS[7]))
    assert index.search(PHOTOS[7], k=1).similarity[0] == pytest.approx(1, abs=2e-3)


def test_what_is_no_index(table: Path, index: Index, backbone: Backbone, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing is no index: build it with dinokit index build"):
        Index(tmp_path / "nothing")
    with pytest.raises(UserError, match="is there already"):
        Index.build(index.place, Collection(table))
    with pytest.raises(UserError, match=r"made with dinokit_vitt16 .*not with"):
        Index(index.place, load("random:dinokit_vitt16"))
    with pytest.raises(UserError, match="is a table and stays as it is"):
        open_searchable(table, to_change=True)
    draft = tmp_path / ".new.index.building"
    (draft / "pictures.lance").mkdir(parents=True)  # what a killed build leaves
    assert len(Index.build(tmp_path / "new.index", Collection(table))) == 5
    assert not draft.exists()
    shutil.rmtree(index.place / "pictures.lance")
    with pytest.raises(UserError, match="is no whole index"):
        Index(index.place)
    (index.place / "space.safetensors").write_bytes(b"junk")
    with pytest.raises(UserError, match=r"space\.safetensors is damaged"):
        Index(index.place)
