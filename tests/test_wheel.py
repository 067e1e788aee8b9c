"""What is installed from the built wheel works, not only the checkout."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURES = [ROOT / "tests" / "pictures" / name for name in ("000000000790.jpg", "000000005001.jpg")]
USE = """
import sys, dinokit
assert "site" in dinokit.__file__, dinokit.__file__
features = dinokit.load("dinokit_vitt16").encode(sys.argv[1], size=64)
print(tuple(features.cls.shape), min(features.patches.shape[1:3]))
"""


def run(*command: str, **environment: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_carries_everything_that_the_bundled_model_and_the_demo_need(tmp_path: Path) -> None:
    pip = (sys.executable, "-m", "pip", "-q", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(ROOT))
    [wheel] = tmp_path.glob("dinokit-*.whl")
    site = tmp_path / "site"
    run(*pip, "install", "--no-deps", "--no-index", "--target", str(site), str(wheel))
    place = {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    found = run(sys.executable, "-c", USE, str(PICTURES[0]), **place)
    assert found.strip() == "(1, 192) 4"
    photos, out = f"{PICTURES[0].parent}/{{{','.join(path.name for path in PICTURES)}}}", tmp_path / "demo"
    assert "Open" in run(sys.executable, "-m", "dinokit", "demo", photos, "--size", "64", "--out", str(out), **place)
    assert (out / "index.html").stat().st_size > 50_000
    assert len(list((site / "dinokit" / "report" / "demo_photos").glob("*.jpg"))) == 12
    for needed in ("report/demo_photos/CREDITS.md", "pretrain/presets/laptop.toml"):
        assert (site / "dinokit" / needed).is_file()
