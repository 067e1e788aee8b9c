"""Memory that loading takes, beside the size of the file.

    python -m benchmarks.load_memory [--megabytes 2000]

A ViT of about that size is written in bf16, in one layout after the other, and loaded in a process of its own, which
reads its memory from /proc/self/status every 5 ms. What has to fit into memory is the peak of `RssAnon`, the pages of
the process alone, above what it had before; pages of the mapped file (`RssFile`) can be given back at any time and are
shown beside it. Then the copy that computes features is prepared, in bf16. The file is removed again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.results import show, write
from dinokit.backbones.network import build
from dinokit.backbones.vit import ViTSpec
from dinokit.checkpoints.export import NAMES, export_model
from dinokit.checkpoints.load import load_model
from dinokit.checkpoints.model import ModelInfo
from dinokit.inference.backbone import Backbone

WIDTH = 2048


def memory() -> dict[str, float]:
    """MiB of this process: pages of its own, and pages of mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = {line.partition(":")[0]: int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssFile"))}
    return {"own": found["RssAnon"] / 1024, "mapped": found["RssFile"] / 1024}


@contextmanager
def watch() -> Iterator[dict[str, float]]:
    """The peak of `memory` over the time of a `with`."""
    peak, going = memory(), True

    def look() -> None:
        peak.update({name: max(value, peak[name]) for name, value in memory().items()})

    def keep_looking() -> None:
        while going:
            look()
            time.sleep(0.005)

    thread = threading.Thread(target=keep_looking, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        going = False
        thread.join()
        look()


def measure(path: str) -> dict[str, float]:
    """What loading `path` takes in this process, in MiB above what it had before."""
    Backbone(load_model("dinokit_vitt16"), precision="bf16").prepared(torch.zeros(1, 3, 32, 32))  # all is imported
    before, size = memory(), Path(path).stat().st_size / 2**20
    with watch() as loading:
        model = load_model(path if path.endswith(".pth") else Path(path).parent)
    with watch() as preparing:
        Backbone(model, precision="bf16").prepared  # noqa: B018
    own = loading["own"] - before["own"]
    return {
        "file_mib": round(size, 1),
        "own_mib": round(own, 1),
        "mapped_mib": round(loading["mapped"] - before["mapped"], 1),
        "own_share_of_file": round(own / size, 3),
        "prepared_own_share_of_file": round((preparing["own"] - before["own"]) / size, 3),
    }


def write_model(folder: Path, layout: str, megabytes: int) -> Path:
    """A ViT of about that size in bf16; returns its file of weights."""
    depth = max(round(megabytes * 1e6 / (2 * 12 * WIDTH**2)), 1)
    spec = ViTSpec(WIDTH, depth, WIDTH // 64, 4 * WIDTH)
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in build(spec).state_dict().items()}
    noise = torch.randn(4 * WIDTH**2, generator=torch.Generator().manual_seed(0)).mul_(0.02).bfloat16()
    state = {key: noise[: shape.numel()].view(shape).clone() for key, shape in shapes.items()}
    state["rope_embed.periods"] = spec.rope.periods(spec.head_dim)
    return export_model(folder, state, ModelInfo("big", spec), layout)


def run(layout: str, megabytes: int) -> dict[str, float | str]:
    """Write, load in a process of its own, remove."""
    with TemporaryDirectory() as folder:
        maker = [sys.executable, "-m", "benchmarks.load_memory", "--write", layout, folder, str(megabytes)]
        path = subprocess.run(maker, check=True, capture_output=True, text=True).stdout.strip()
        loader = [sys.executable, "-m", "benchmarks.load_memory", "--measure", path]
        result = subprocess.run(loader, check=True, capture_output=True, text=True)
    return {"layout": layout, **json.loads(result.stdout)}


def main() -> None:
    """Measure every layout, print a table and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=2000)
    parser.add_argument("--write", nargs=3, metavar=("LAYOUT", "FOLDER", "MEGABYTES"), help="used by itself")
    parser.add_argument("--measure", metavar="FILE", help="used by itself")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.write:
        print(write_model(Path(options.write[1]), options.write[0], int(options.write[2])))
    elif options.measure:
        print(json.dumps(measure(options.measure)))
    else:
        rows = [run(layout, options.megabytes) for layout in NAMES]
        show("memory of loading a bf16 file", list(rows[0]), [list(row.values()) for row in rows])
        write("load_memory", {"loads": rows})


if __name__ == "__main__":
    main()
