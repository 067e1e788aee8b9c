"""`dinokit embed` killed (`kill -9`) at random moments and run again: the rows of an undisturbed run, each once."""

from __future__ import annotations

import multiprocessing
import random
import shutil
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from dinokit.cli.app import main
from dinokit.inference import embed, embedding_table  # noqa: F401 (imported once, for all runs)
from dinokit.inference.embedding_table import parts_of

PHOTOS = Path(__file__).resolve().parents[1] / "tests" / "pictures"
PICTURES = 400


def work(folder: Path, out: Path, log: Path) -> None:
    """The command, in small parts so that there are many moments; what it says goes to the file `log`."""
    torch.set_num_threads(1)
    embedding_table.PART_PICTURES, embedding_table.ROW_GROUP = 16, 64
    with open(log, "w", encoding="utf-8") as file:
        sys.stdout = sys.stderr = file
        sys.exit(main(["embed", str(folder), "--out", str(out), "--size", "64", "--batch-size", "4"]))


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


def start(folder: Path, out: Path) -> BaseProcess:
    """The command in a process of its own, forked where everything is imported but nothing has run."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["benchmarks.kills"])
    process = processes.Process(target=work, args=(folder, out, folder.parent / "log"))
    process.start()
    return process


def killed(folder: Path, out: Path, seconds: float) -> bool:
    """Kill a fresh run after so many seconds of work; False where there was nothing left to kill."""
    out.unlink(missing_ok=True)
    shutil.rmtree(parts_of(out), ignore_errors=True)
    process = start(folder, out)
    time.sleep(seconds)
    process.kill()
    process.join()
    return process.exitcode != 0


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
    start(photos, folder / "first.parquet").join()  # which starts the server
    process, started = start(photos, out), time.perf_counter()
    process.join()
    duration = time.perf_counter() - started
    right, errors = pq.read_table(out), out.with_name(out.name + ".errors.jsonl").read_bytes()
    dice, kept, worst, failed = random.Random(0), [], 0.0, 0
    for number in range(kills):
        while not killed(photos, out, duration * (number + dice.random()) / kills):
            duration *= 0.8  # it had already ended: the machine was slower before
        kept.append(len(list(parts_of(out).glob("part-*.parquet"))))
        process = start(photos, out)
        process.join()
        equal, distance = same(pq.read_table(out), right) if process.exitcode == 0 else (False, float("inf"))
        good = equal and distance < 0.02 and errors == out.with_name(out.name + ".errors.jsonl").read_bytes()
        if not good or parts_of(out).exists():
            failed += 1
            print(f"kill {number}: {equal} {distance} {(folder / 'log').read_text()}", file=sys.stderr, flush=True)
        worst = max(worst, distance)
    return {
        "kills": kills,
        "runs_that_had_parts": sum(map(bool, kept)),
        "most_parts_kept": max(kept),
        "rows": len(right),
        "failed": failed,
        "greatest_distance": worst,
    }
