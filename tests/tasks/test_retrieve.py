"""Searching a table of embeddings: what is found, what is kept beside it, and what is refused."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers_pictures import PHOTOS
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from dinokit.errors import UserError
from dinokit.heads import similar
from dinokit.heads.correspondence import patch_similarity
from dinokit.heads.retrieval_scores import score_rankings
from dinokit.inference import vectors
from dinokit.inference.backbone import Backbone, load
from dinokit.inference.embed import EmbedSettings, embed_pictures
from dinokit.tasks import retrieve
from dinokit.tasks.hits import SHOWN_SEARCHES, Hits, save_hits
from dinokit.tasks.retrieve import Collection

pytestmark = pytest.mark.usefixtures("one_thread")
GOLDEN = Path(__file__).parents[1] / "golden" / "retrieval.json"
SIZE = 64


@pytest.fixture(autouse=True)
def few_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few pictures are whitened here, too."""
    monkeypatch.setattr(retrieve, "LEAST_TO_WHITEN", 0)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load("dinokit_vitt16")


@pytest.fixture(scope="module")
def made(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos, each with a smaller copy, and their table."""
    folder = tmp_path_factory.mktemp("made")
    for path in PHOTOS:
        shutil.copy(path, folder)
        with Image.open(path) as image:
            small = image.resize((image.width * 3 // 4, image.height * 3 // 4), Image.Resampling.LANCZOS)
            small.save(folder / f"{path.stem}-small.jpg", quality=90)
    settings = EmbedSettings(SIZE, "cls+mean")
    embed_pictures([str(folder)], folder / "t.parquet", backbone, settings, lambda items, *_: items, print)
    return folder


@pytest.fixture
def table(made: Path, tmp_path: Path) -> Path:
    """A copy of the table alone, in a folder of its own."""
    shutil.copy(made / "t.parquet", tmp_path)
    return tmp_path / "t.parquet"


def unit(count: int, width: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)))


def test_few_pictures_are_not_whitened(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    collection = Collection(table)
    assert collection.whitening is None
    assert collection.threshold(None) == 0.99


@pytest.mark.parametrize("tokens", ["cls", "mean", "cls+mean"])
@pytest.mark.parametrize("whiten", [True, False])
def test_a_picture_finds_itself_and_then_its_copy(made: Path, backbone: Backbone, tokens: str, whiten: bool) -> None:
    collection = Collection(made / "t.parquet", backbone, tokens=tokens, whiten=whiten)  # type: ignore[arg-type]
    for path in PHOTOS:
        hits = collection.search(path, k=3)
        assert [Path(name).name for name in hits.paths[:2]] == [path.name, f"{path.stem}-small.jpg"]
        assert hits.similarity[0] == pytest.approx(1, abs=2e-3)
        assert (np.diff(hits.similarity) <= 0).all()
        with Image.open(path) as image:
            assert tuple(hits.sizes[0]) == image.size


def test_shares_and_places_are_those_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, queries = unit(1000), unit(7, seed=1)
    monkeypatch.setattr(similar, "_ROWS", 64)
    expected = (queries @ bank.T).topk(20)
    for part in (queries, queries[:1]):
        values, rows = similar.nearest(bank, part, 20)
        assert torch.equal(rows, expected.indices[: len(part)])
        torch.testing.assert_close(values, expected.values[: len(part)])


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.floats(0.05, 1), st.integers(0, 99))
def test_groups_are_connected_components(count: int, threshold: float, seed: int) -> None:
    bank = unit(count, 3, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similar, "_TILE", 7)
        patch.setattr(similar, "_PAIRS", 5)
        found = [part.tolist() for part in similar.groups(bank, threshold)]
    label = connected_components(csr_matrix((bank @ bank.T >= threshold - 1e-6).numpy()), directed=False)[1]
    expected = [np.flatnonzero(label == one).tolist() for one in dict.fromkeys(label.tolist())]
    assert found == [part for part in expected if len(part) > 1]


def test_scores_are_those_of_the_published_protocol() -> None:
    golden = json.loads(GOLDEN.read_text())
    rankings = np.array(golden["ranks_db_by_query"]).T.tolist()
    parts = {"easy": (["easy"], ["hard"]), "medium": (["easy", "hard"], []), "hard": (["hard"], ["easy"])}
    for name, (right, junk) in parts.items():
        good, left_out = (
            [[n for kind in kinds for n in query[kind]] for query in golden["ground_truth"]]
            for kinds in (right, [*junk, "junk"])
        )
        scores = score_rankings(rankings, good, left_out)
        assert scores.mean_average_precision == pytest.approx(golden[name]["mAP"], abs=1e-9)
        expected = [np.nan if one is None else one for one in golden[name]["AP_per_query"]]
        np.testing.assert_allclose(scores.average_precision, expected)


def test_reranking_compares_patches(made: Path, backbone: Backbone) -> None:
    patches = unit(12)
    assert patch_similarity(patches, patches[torch.randperm(12)]) == 1
    hits = Collection(made / "t.parquet", backbone).search(PHOTOS[0], k=5, rerank=3)
    assert hits.paths[0].endswith(PHOTOS[0].name)
    assert hits.patch_similarity[0] == 1
    assert 0 < hits.patch_similarity[2] < hits.patch_similarity[1] <= 1
    assert np.isnan(hits.patch_similarity).tolist() == [False, False, False, True, True]


def test_near_duplicates_are_grouped_with_the_larger_first(made: Path, tmp_path: Path) -> None:
    found = Collection(made / "t.parquet").duplicates(0.9)
    pairs = {tuple(Path(path).name for path in group) for group in found.groups}
    assert pairs == {(path.name, f"{path.stem}-small.jpg") for path in PHOTOS}
    assert len(found.extra) == len(PHOTOS)
    assert found.draw().ndim == 3
    found.save(tmp_path / "groups.csv")
    assert (tmp_path / "groups.csv").read_text().count("\n") == 1 + 2 * len(PHOTOS)


def test_results_are_saved_and_drawn_even_without_the_files(table: Path, backbone: Backbone, tmp_path: Path) -> None:
    whole = pq.read_table(table)
    gone = [f"gone/{n}.jpg" for n in range(len(whole))]
    pq.write_table(whole.set_column(0, "path", pa.array(gone)), table)
    hits = Collection(table, backbone).search(PHOTOS[0], k=4, rerank=2)
    assert np.isnan(hits.patch_similarity).all()
    assert (hits.draw(side=64)[4:60, 72:120].std(axis=(0, 1)) < 1).all(), "a grey tile"
    for name in ("hits.json", "hits.csv", "hits.jpg", "hits.png"):
        hits.save(tmp_path / name)
    content = json.loads((tmp_path / "hits.json").read_text())["searches"][0]
    assert [hit["path"] for hit in content["hits"]] == list(hits.paths)
    assert content["query"] == str(PHOTOS[0])
    with pytest.raises(UserError, match=r"hits\.gif has no ending that can be written"):
        hits.save(tmp_path / "hits.gif")


def test_pictures_in_shards_are_found_again(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.make_archive(str(tmp_path / "shard"), "tar", PHOTOS[0].parent)
    monkeypatch.chdir(tmp_path)
    embed_pictures(["shard.tar"], Path("t.parquet"), backbone, EmbedSettings(SIZE), lambda items, *_: items, print)
    monkeypatch.chdir(tmp_path.parent)
    hits = Collection(tmp_path / "t.parquet", backbone).search(PHOTOS[2], k=2, rerank=1)
    assert hits.paths[0] == f"shard.tar/./{PHOTOS[2].name}"
    assert hits.patch_similarity[0] == pytest.approx(1, abs=0.05)


def test_the_vectors_are_unpacked_once_and_renewed_with_the_table(table: Path) -> None:
    first = Collection(table).vectors.rows.clone()
    store = next(table.parent.glob("*.vectors"))
    written = store.stat().st_mtime_ns
    assert torch.equal(Collection(table).vectors.rows, first)
    assert store.stat().st_mtime_ns == written
    pq.write_table(pq.read_table(table).slice(3), table)
    assert len(Collection(table).vectors.rows) == len(first) - 3
    assert [path.name for path in table.parent.iterdir() if path.suffix == ".tmp"] == []


@pytest.mark.parametrize("damage", ["cut", "empty", "junk", "left"])
def test_a_damaged_store_is_made_anew(table: Path, damage: str) -> None:
    first = Collection(table).vectors.rows.clone()
    store = next(table.parent.glob("*.vectors"))
    content = store.read_bytes()
    if damage == "left":  # by a process that was killed
        store.with_name(store.name + ".tmp").write_bytes(content[: len(content) // 2])
    store.write_bytes({"cut": content[:-100], "empty": b"", "junk": bytes(range(256)) * 9, "left": b""}[damage])
    assert torch.equal(Collection(table).vectors.rows, first)
    assert store.read_bytes() == content


def test_processes_that_come_together_share_one_store(table: Path) -> None:
    code = f"from dinokit.tasks.retrieve import Collection; print(Collection({str(table)!r}).vectors.rows.sum().item())"
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(3)]
    assert len({process.communicate(timeout=120)[0] for process in processes}) == 1
    assert not any(process.returncode for process in processes)
    assert len(list(table.parent.iterdir())) == 2


def test_without_a_place_to_write_the_vectors_are_in_memory(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Collection(table).vectors.rows.clone()
    next(table.parent.glob("*.vectors")).unlink()

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(vectors, "_locked", refuse)
    with pytest.warns(UserWarning, match=r"cannot write .*t\.parquet\.cls-whitened\.vectors \(Permission denied\)"):
        assert torch.equal(Collection(table).vectors.rows, expected)


def rewrite(table: Path, **columns: pa.Array) -> None:
    whole = pq.read_table(table)
    for name, column in columns.items():
        whole = whole.set_column(whole.schema.names.index(name), name, column)
    pq.write_table(whole, table)


def test_tables_that_cannot_be_searched(table: Path, tmp_path: Path) -> None:
    whole, content = pq.read_table(table), table.read_bytes()
    numbers = np.stack(whole["embedding"].to_numpy(zero_copy_only=False)).astype(np.float32)
    numbers[5, 3] = np.nan
    rewrite(table, embedding=pa.FixedSizeListArray.from_arrays(pa.array(numbers.reshape(-1)), numbers.shape[1]))
    with pytest.raises(UserError, match="has a vector that is not finite in row 5"):
        Collection(table)
    assert list(table.parent.glob("*.vectors")) == []
    for bad, said in (
        (whole.slice(0, 0), "has no rows"),
        (whole.drop_columns(["embedding"]), "no table of embeddings: it has no column embedding"),
        (whole.replace_schema_metadata({}), "does not say which model made its vectors"),
        (whole.set_column(3, "embedding", whole["width"]), "its column embedding holds int32"),
    ):
        pq.write_table(bad, table)
        with pytest.raises(UserError, match=said):
            Collection(table)
    for bytes_, said in ((content[:-50], "no whole Parquet file"), (b"", "no whole Parquet"), (b"text", "no whole")):
        table.write_bytes(bytes_)
        with pytest.raises(UserError, match=said):
            Collection(table)
    middle = bytearray(content)
    middle[200:4000] = bytes(3800)
    table.write_bytes(middle)
    with pytest.raises(UserError, match=r"is damaged|not finite"):
        Collection(table)
    with pytest.raises(UserError, match=r"none\.parquet is not found"):
        Collection(tmp_path / "none.parquet")
    with pytest.raises(UserError, match="is a folder"):
        Collection(tmp_path)


def test_other_models_and_impossible_numbers_are_refused(table: Path, backbone: Backbone) -> None:
    with pytest.raises(
        UserError, match=r"made with dinokit_vitt16 \(weights .*, not with random.*: give that model with --model"
    ):
        Collection(table, load("random:dinokit_vitt16"))
    collection = Collection(table, backbone)
    for k in (0, len(collection) + 1):
        with pytest.raises(UserError, match=f"k is {k}, .* has {len(collection)} pictures"):
            collection.search(PHOTOS[0], k=k)
    with pytest.raises(UserError, match="--rerank is -1"):
        collection.search(PHOTOS[0], rerank=-1)
    with pytest.raises(UserError, match="opened without a backbone"):
        Collection(table).search(PHOTOS[0])
    with pytest.raises(UserError, match="the threshold is 0"):
        collection.duplicates(0)
    with pytest.raises(UserError, match="not finite"):
        collection.nearest(np.full((1, backbone.embed_dim), np.nan), 1)
    with pytest.raises(UserError, match="shape"):
        collection.nearest(np.zeros((1, 5)), 1)
    with pytest.raises(UserError, match=r"nothing\.jpg is not found"):
        collection.search("nothing.jpg")


def test_a_sheet_of_many_searches_has_a_bound(tmp_path: Path) -> None:
    dot, numbers = np.zeros((4, 4, 3), np.uint8), np.zeros(1, np.float32)
    found = [
        Hits(f"{n}.jpg", dot, ("gone.jpg",), numbers, np.ones((1, 2), np.int32), numbers, tmp_path) for n in range(200)
    ]
    rows = [one.to_row() for one in found]
    for name in ("sheet.jpg", "all.csv"):
        save_hits(tmp_path / name, rows, found[:SHOWN_SEARCHES])
    with Image.open(tmp_path / "sheet.jpg") as sheet:
        assert 20_000 < sheet.height < 22_000
    assert len((tmp_path / "all.csv").read_text().splitlines()) == 201


def test_a_sheet_of_many_hits_has_a_bound(tmp_path: Path) -> None:
    count = 1000
    numbers, sizes = np.zeros(count, np.float32), np.ones((count, 2), np.int32)
    hits = Hits("q.jpg", np.zeros((4, 4, 3), np.uint8), ("gone.jpg",) * count, numbers, sizes, numbers, tmp_path)
    assert hits.draw().shape[0] < 6000
