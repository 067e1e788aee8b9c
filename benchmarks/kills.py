"""`dinokit embed` killed (`kill -9`) at random moments and run again: the rows of an undisturbed run, each once."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from dinokit.inference.embedding_table import parts_of

PHOTOS = Path(__file__).resolve().parents[1] / "tests" / "pictures"
PICTURES = 400
PROGRAM = """
import sys, torch
from dinokit.cli.app import main
from dinokit.inference import embed, embedding_table
torch.set_num_threads(1)
embedding_table.PART_PICTURES = 16
embedding_table.ROW_GROUP = 64
print("ready", flush=True)
sys.exit(main(["embed", sys.argv[1], "--out", sys.argv[2], "--size", "64", "--batch-size", "4"]))
"""


def write_pictures(folder: Path) -> None:
    """Real photographs, cut out differently each, and some that cannot be read."""
    folder.mkdir()
    dice = random.Random(0)
    photos = [Image.open(path).convert("RGB") for path in sorted(PHOTOS.glob("*.jpg"))]
    for number in range(PICTURES):
        photo = photos[number % len(photos)]
        left, top = dice.randrange(photo.width // 2), dice.randrange(photo.height // 2)
        path = folder / f"{number:04d}.jpg"
        photo.crop((left, top, photo.width - left // 2, photo.height - top // 2)).save(path)
        if number % 50 == 7:
            path.write_bytes(path.read_bytes()[:200])


def start(folder: Path, out: Path) -> subprocess.Popen[str]:
    """The program, as soon as it has begun to work."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(folder), str(out)], text=True, **pipes)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def killed(folder: Path, out: Path, seconds: float) -> bool:
    """Kill a fresh run after so many seconds of work; False where there was nothing left to kill."""
    out.unlink(missing_ok=True)
    shutil.rmtree(parts_of(out), ignore_errors=True)
    process = start(folder, out)
    time.sleep(seconds)
    process.kill()
    process.communicate()
    return process.returncode != 0


def same(found: pa.Table, right: pa.Table) -> tuple[bool, float]:
    """Whether all but the vectors is equal, and the greatest distance of vectors, relative to their length."""
    equal = found.schema.equals(right.schema) and found.drop_columns("embedding").equals(
        right.drop_columns("embedding")
    )
    if not equal:
        return False, float("inf")
    a, b = (np.stack(table["embedding"].to_numpy()) for table in (found, right))
    return True, float((np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1)).max())


def kill_campaign(kills: int, folder: Path) -> dict[str, Any]:
    """Kill it in each of `kills` equal stretches of its time, run it again, and compare the rows."""
    photos, out = folder / "photos", folder / "a.parquet"
    write_pictures(photos)
    process, started = start(photos, out), time.perf_counter()
    process.communicate()
    duration = time.perf_counter() - started
    right, errors = pq.read_table(out), out.with_name(out.name + ".errors.jsonl").read_bytes()
    dice, kept, worst, failed = random.Random(0), [], 0.0, 0
    for number in range(kills):
        while not killed(photos, out, duration * (number + dice.random()) / kills):
            duration *= 0.8  # it had already ended: the machine was slower before
        kept.append(len(list(parts_of(out).glob("part-*.parquet"))))
        process = start(photos, out)
        stderr = process.communicate()[1]
        equal, distance = same(pq.read_table(out), right) if process.returncode == 0 else (False, float("inf"))
        good = equal and distance < 0.02 and errors == out.with_name(out.name + ".errors.jsonl").read_bytes()
        if not good or parts_of(out).exists():
            failed += 1
            print(f"kill {number}: {equal} {distance} {stderr}", file=sys.stderr, flush=True)
        worst = max(worst, distance)
    return {
        "kills": kills,
        "runs_that_had_parts": sum(map(bool, kept)),
        "most_parts_kept": max(kept),
        "rows": len(right),
        "failed": failed,
        "greatest_distance": worst,
    }
