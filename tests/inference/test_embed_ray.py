"""`dinokit embed` under Ray Data: the rows that one process gives, in the same order."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from dinokit.cli.app import main
from dinokit.inference import embed_ray
from dinokit.inference.embed import EmbedSettings

pytestmark = pytest.mark.usefixtures("one_thread")

PICTURES = Path(__file__).parents[1] / "pictures"
MODEL = ["--model", "random:dinokit_vitt16", "--size", "64", "--tokens", "cls+mean"]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """24 real photographs in three folders, five that cannot be read before them, named from where the command runs."""
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        shutil.copytree(PICTURES, f"photos/{number}", ignore=shutil.ignore_patterns("*.md"))
    Path("photos/0-cut").mkdir()
    for number in range(5):
        Path(f"photos/0-cut/{number}.jpg").write_bytes((PICTURES / "000000000790.jpg").read_bytes()[:3000])
    return Path("photos")


def test_two_workers_give_the_rows_of_one_process(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(embed_ray, "BLOCK", 5)  # so that nothing in one of them can be read
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    declared: list[int] = []
    init = ray.init
    monkeypatch.setattr(ray, "init", lambda **options: declared.append(options["num_cpus"]) or init(**options))
    assert main(["embed", str(photos), "--out", "alone.parquet", *MODEL]) == 0
    assert main(["embed", str(photos), "--out", "shared.parquet", *MODEL, "--ray", "2"]) == 0
    assert declared == [4]
    assert capfd.readouterr().out == "24 rows in alone.parquet\n24 rows in shared.parquet\n"
    alone, shared = pq.read_table("alone.parquet"), pq.read_table("shared.parquet")
    assert shared.schema.equals(alone.schema, check_metadata=True)
    for name in ("path", "width", "height"):
        assert shared[name].equals(alone[name])
    for name in ("embedding", "mean_patch"):
        found, right = (np.stack(table[name].to_numpy()) for table in (shared, alone))
        assert np.linalg.norm(found - right, axis=1).max() < 0.02 * np.linalg.norm(right, axis=1).min()  # bfloat16
    errors = [Path(f"{name}.parquet.errors.jsonl").read_text() for name in ("alone", "shared")]
    assert errors[0] == errors[1]
    assert errors[0].count("photos/0-cut/") == 5


def test_without_ray_the_error_says_how_to_get_it(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    assert main(["embed", str(photos), "--out", "a.parquet", *MODEL, "--ray", "2"]) == 2
    assert capsys.readouterr().err == "error: --ray needs Ray: pip install dinokit[ray]\n"


def test_a_number_of_workers_that_cannot_be() -> None:
    with pytest.raises(Exception, match="--ray is 0: give the number of workers"):
        EmbedSettings(ray_workers=0)
