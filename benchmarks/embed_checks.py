"""What `benchmarks.embed` measures beside speed: memory, float16, and decoding at reduced size."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import simplejpeg
import torch
from numpy.typing import NDArray

from benchmarks.data import data_folder
from dinokit.data.opening import open_pictures
from dinokit.images.geometry import resize, to_grid, to_tensor
from dinokit.images.read import read
from dinokit.inference.backbone import load
from dinokit.inference.embed import EmbedSettings, embed_pictures
from dinokit.inference.stream import Stream
from dinokit.inference.views import View

MODEL = "dinokit_vitt16"
_MEMORY = """
import sys
from dinokit.cli.app import main
code = main(["embed", sys.argv[1], "--out", sys.argv[2], "--size", "32", "--batch-size", "64"])
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
sys.exit(code)
"""


def untracked(items: Iterable[Any], total: int, label: str, done: int = 0) -> Iterable[Any]:
    """Progress that is not shown."""
    return items


def peak_memory(photos: Path, numbers: tuple[int, ...], folder: Path) -> dict[str, float]:
    """Peak MiB of a process that embeds so many small pictures, by their number."""
    peaks = {}
    for number in numbers:
        small = folder / str(number)
        small.mkdir()
        for place, content in zip(range(number), _small_pictures(photos), strict=False):
            (small / f"{place:06d}.jpg").write_bytes(content)
        arguments = [sys.executable, "-c", _MEMORY, str(small), str(folder / f"{number}.parquet")]
        done = subprocess.run(arguments, stdout=subprocess.PIPE, text=True, check=True)
        peaks[f"{number:,}"] = round(int(done.stdout.split()[-1]) / 1024, 1)
    return peaks


def _small_pictures(photos: Path) -> Iterator[bytes]:
    """The photographs at 64 x 48 pixels, over and over, cut differently each time."""
    paths = sorted(photos.iterdir())[:500]
    views = [resize(to_tensor(read(path)), (48, 64))[0].permute(1, 2, 0).numpy() for path in paths]
    for cut in range(16 * 16):
        for view in views:
            yield simplejpeg.encode_jpeg(np.ascontiguousarray(view[cut % 16 :, cut // 16 :]), quality=80)


def float16_neighbours(photos: Path, size: int = 96) -> dict[str, float]:
    """The share of ten nearest neighbours that stay, and the times of a matrix-vector product."""
    rows = {}
    with TemporaryDirectory() as folder:
        for precision in ("fp32", "bf16"):
            out = Path(folder) / f"{precision}.parquet"
            backbone = load(MODEL, precision=precision)
            embed_pictures([str(photos)], out, backbone, EmbedSettings(size), untracked, print)
            rows[precision] = np.stack(pq.read_table(out)["embedding"].to_numpy())
    right = _nearest(rows["fp32"])
    times = {dtype: _product_seconds(rows["fp32"].astype(dtype)) for dtype in ("float32", "float16")}
    return {
        "kept in float16": _kept(_nearest(rows["fp32"].astype(np.float16)), right),
        "kept by a network in bfloat16": _kept(_nearest(rows["bf16"]), right),
        "float16 takes times float32": times["float16"] / times["float32"],
    }


def _nearest(vectors: NDArray[Any]) -> NDArray[np.int64]:
    units = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    cosines = units @ units.T
    np.fill_diagonal(cosines, -2)
    return np.argsort(-cosines, axis=1)[:, :10]


def _kept(found: NDArray[np.int64], right: NDArray[np.int64]) -> float:
    return float(np.mean([len({*a} & {*b}) / 10 for a, b in zip(found, right, strict=True)]))


def _product_seconds(vectors: NDArray[Any]) -> float:
    query, seconds = vectors[0].copy(), []
    for _ in range(20):
        started = time.perf_counter()
        vectors @ query
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def scaled_decoding(size: int) -> dict[str, float]:
    """The worst cosine of the class token to that of exact decoding, where decoding is reduced, by set and size."""
    backbone, worst = load(MODEL, precision="fp32"), {}
    for folder in ("hires", "coco_mini"):
        paths = [str(path) for path in sorted((data_folder() / folder).rglob("*.jpg"))[:40]]
        for side in (96, size):
            stream: Stream[None] = Stream(open_pictures(paths), backbone, side, 1, lambda features: [])
            cosines = []
            for number, path in enumerate(paths):
                view = stream.view(number)
                exact = View(to_grid(read(path), side, backbone.patch_size), view.size, view.span)
                if not torch.equal(view.pixels, exact.pixels):
                    fast, right = backbone.encode_views([view, exact])
                    cosines.append(torch.cosine_similarity(fast.cls, right.cls).item())
            if cosines:
                worst[f"{folder}, {side} px, {len(cosines)} photographs"] = min(cosines)
    return worst
