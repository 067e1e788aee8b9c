"""What is installed from the built wheel works, not only the checkout."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "tests" / "pictures" / "000000000790.jpg"
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
    found = run(sys.executable, "-c", USE, str(PICTURE), PYTHONPATH=str(site), OMP_NUM_THREADS="1")
    assert found.strip() == "(1, 192) 4"
    for needed in ("report/demo_photos/CREDITS.md", "pretrain/presets/laptop.toml"):
        assert (site / "dinokit" / needed).is_file()
