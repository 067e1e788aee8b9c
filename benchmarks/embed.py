"""`dinokit embed` from JPEG files to Parquet, against the network alone on the same pictures, decoded beforehand.

The network and the decoding share the processor's cores, so the pure rate cannot be reached: decoding alone costs
its share, and what is left is the reachable rate. Embedding a folder and the network alone take turns, half of the
latter before and half after, so that a slow minute meets both. Run from the repository's root:
`python -m benchmarks.embed [--pictures 2000] [--rounds 1]`; writes benchmarks/results/embed.json.
"""

from __future__ import annotations

import argparse
import tarfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.data import data_folder
from benchmarks.embed_checks import float16_neighbours, peak_memory, scaled_decoding, untracked
from benchmarks.results import show, write
from dinokit.data.opening import open_pictures
from dinokit.inference.backbone import Backbone, load
from dinokit.inference.embed import EmbedSettings, embed_pictures, take_vectors
from dinokit.inference.stream import Stream
from dinokit.inference.views import View

MODELS = ("dinokit_vitt16", "random:dinov3_vits16")
SIZE, BATCH, BAR = 224, 16, 0.9


def write_photos(folder: Path, number: int) -> None:
    """The first photographs of the reference set as JPEG files."""
    left = number
    for shard in sorted((data_folder() / "photos").glob("*.tar")):
        with tarfile.open(shard) as archive:
            for member in archive:
                file = archive.extractfile(member) if member.name.endswith(".jpg") and left else None
                if file is not None:
                    left -= 1
                    (folder / f"{number - left:06d}.jpg").write_bytes(file.read())
    assert not left, f"the reference set has only {number - left} photographs"


class Race:
    """One model: the network alone, decoding alone, and both as `dinokit embed`."""

    def __init__(self, backbone: Backbone, folder: Path, out: Path) -> None:
        self.backbone, self.folder, self.out = backbone, folder, out
        keep = lambda features: take_vectors(features, "cls")  # noqa: E731
        self.stream = Stream(open_pictures(str(folder)), backbone, SIZE, BATCH, keep)
        self.views = self.decode()
        self.views.sort(key=lambda view: tuple(view.pixels.shape))

    def decode(self) -> list[View]:
        """All views, decoded by as many threads as the network has."""
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            return list(pool.map(self.stream.view, range(len(self.stream.pictures))))

    def forward(self, start: int) -> None:
        """The network on every second view, in full batches of one shape where there are enough."""
        views = self.views[start::2]
        for begin in range(0, len(views), 8 * BATCH):
            some = views[begin : begin + 8 * BATCH]
            self.backbone.encode_views(some, BATCH)

    def embed(self) -> None:
        """From the folder to the table."""
        settings = EmbedSettings(SIZE, batch_size=BATCH)
        embed_pictures([str(self.folder)], self.out, self.backbone, settings, untracked, print)

    def run(self, rounds: int) -> dict[str, float]:
        """Pictures a second, and the shares: by the clock, and by processor time, which other load hardly changes."""
        number = len(self.views)
        self.backbone.encode_views(self.views[: 4 * BATCH], BATCH)  # forms are chosen
        pure, whole, decoding = [], [], []
        for _ in range(rounds):
            before = measured(lambda: self.forward(0))
            whole.append(measured(self.embed))
            pure.append(before + measured(lambda: self.forward(1)))
            decoding.append(measured(self.decode))
        share, processor_share = np.median([a / b for a, b in zip(pure, whole, strict=True)], axis=0)
        reachable = np.median([a / (a + d) for a, d in zip(pure, decoding, strict=True)], axis=0)[0]
        return {
            "forward_per_second": number / float(np.median(pure, axis=0)[0]),
            "decoding_per_second": number / float(np.median(decoding, axis=0)[0]),
            "embed_per_second": number / float(np.median(whole, axis=0)[0]),
            "share_of_forward": float(share),
            "reachable_share": float(reachable),
            "share_by_processor_time": float(processor_share),
        }


def measured(work: Callable[[], object]) -> NDArray[np.float64]:
    """Seconds by the clock and of processor time."""
    started = time.perf_counter(), time.process_time()
    work()
    return np.array([time.perf_counter() - started[0], time.process_time() - started[1]])


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=1)
    given = parser.parse_args()
    results: dict[str, Any] = {"pictures": given.pictures, "size": SIZE, "models": {}}
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "photos").mkdir()
        write_photos(folder / "photos", given.pictures)
        for model in MODELS:
            found = Race(load(model), folder / "photos", folder / "a.parquet").run(given.rounds)
            results["models"][model] = found
            show(f"{model}, {given.pictures} photographs at {SIZE} px", ("figure", "value"), list(found.items()))
        results["float16"] = float16_neighbours(folder / "photos")
        results["peak_mib"] = peak_memory(folder / "photos", (2_000, 20_000), folder)
    results["scaled_decoding_worst_cosine"] = scaled_decoding(SIZE)
    for title, name in (
        ("ten nearest neighbours kept, time of a product by NumPy", "float16"),
        ("peak memory of so many small pictures, MiB", "peak_mib"),
        ("class token of reduced to exact decoding, worst cosine", "scaled_decoding_worst_cosine"),
    ):
        show(title, ("", "figure"), list(results[name].items()))
    for model, found in results["models"].items():
        share = found["share_of_forward"]
        print(f"{model}: {share:.1%} of the forward rate, bar {BAR:.0%}: {'reached' if share >= BAR else 'MISSED'}")
    print(write("embed", results))


if __name__ == "__main__":
    main()
