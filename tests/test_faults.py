"""The fault campaigns of `benchmarks/faults.py`, 20 cases each: nothing but clear refusals and valid results."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_twenty_damaged_pictures_and_checkpoints() -> None:
    command = [sys.executable, "-m", "benchmarks.faults", "--cases", "20", "--kills", "0", "--no-results"]
    path = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stdout + done.stderr
