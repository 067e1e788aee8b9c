"""`dinokit embed` from JPEG files to Parquet, against the network alone on the same pictures, decoded beforehand.

The network and the decoding share the processor's cores, so the pure rate cannot be reached: decoding alone costs
its share, and what is left is the reachable rate. Embedding a folder and the network alone take turns, half of the
latter before and half after, so that a slow minute meets both. Run from the repository's root:
`python -m benchmarks.embed [--pictures 2000] [--rounds 1]`; writes benchmarks/results/embed.json.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.data import data_folder
from benchmarks.results import show, write
from dinokit.data.opening import open_pictures
from dinokit.images.geometry import resize, to_tensor
from dinokit.images.read import read
from dinokit.inference.backbone import Backbone, load
from dinokit.inference.embed import EmbedSettings, embed_pictures, take_vectors
from dinokit.inference.stream import Stream

MODELS = ("dinokit_vitt16", "random:dinov3_vits16")
SIZE, BATCH, BAR = 224, 16, 0.9
MEMORY = """
import resource, sys
from dinokit.cli.app import main
code = main(["embed", sys.argv[1], "--out", sys.argv[2], "--size", "32", "--batch-size", "64"])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
sys.exit(code)
"""


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
        self.views = self._decode()
        self.views.sort(key=lambda view: tuple(view.shape))

    def _decode(self) -> list[torch.Tensor]:
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            return [view for view, _ in pool.map(self.stream.view, range(len(self.stream.pictures)))]

    def decode(self) -> float:
        """Seconds to decode everything with all cores."""
        started = time.perf_counter()
        self._decode()
        return time.perf_counter() - started

    def forward(self, start: int) -> float:
        """Seconds of the network on every second view, in full batches of one shape where there are enough."""
        views = self.views[start::2]
        started = time.perf_counter()
        for begin in range(0, len(views), 8 * BATCH):
            some = views[begin : begin + 8 * BATCH]
            self.backbone.encode_views(some, [(1, 1)] * len(some), BATCH)
        return time.perf_counter() - started

    def embed(self) -> float:
        """Seconds from the folder to the table."""
        started = time.perf_counter()
        embed_pictures([str(self.folder)], self.out, self.backbone, EmbedSettings(SIZE, batch_size=BATCH), track, print)
        return time.perf_counter() - started

    def run(self, rounds: int) -> dict[str, float]:
        """Pictures a second, and the shares."""
        number = len(self.views)
        self.backbone.encode_views(self.views[: 4 * BATCH], [(1, 1)] * 4 * BATCH, BATCH)  # forms are chosen
        pure, whole, decoding = [], [], []
        for _ in range(rounds):
            before = self.forward(0)
            whole.append(self.embed())
            pure.append(before + self.forward(1))
            decoding.append(self.decode())
        shares = [alone / both for alone, both in zip(pure, whole, strict=True)]
        reachable = [(a + d) / b for a, d, b in zip(pure, decoding, whole, strict=True)]
        return {
            "forward_per_second": number / statistics.median(pure),
            "decoding_per_second": number / statistics.median(decoding),
            "embed_per_second": number / statistics.median(whole),
            "share_of_forward": statistics.median(shares),
            "share_of_reachable": statistics.median(reachable),
        }


def track(items: Iterable[Any], total: int, label: str, done: int = 0) -> Iterable[Any]:
    """Shows nothing."""
    return items


def memory(folder: Path, numbers: tuple[int, int]) -> dict[str, float]:
    """Peak memory in MiB of a process that embeds so many small pictures."""
    peaks = {}
    for number in numbers:
        small = folder / str(number)
        small.mkdir()
        for place, content in zip(range(number), _small_pictures(folder), strict=False):
            (small / f"{place:06d}.jpg").write_bytes(content)
        arguments = [sys.executable, "-c", MEMORY, str(small), str(folder / f"{number}.parquet")]
        done = subprocess.run(arguments, capture_output=True, text=True, check=True)
        peaks[str(number)] = int(done.stdout.split()[-1]) / 1024
    return peaks


def _small_pictures(folder: Path) -> Iterator[bytes]:
    """The photographs at 32 to 47 pixels, over and over, no two alike."""
    import simplejpeg

    photos = sorted((folder / "photos").glob("*.jpg"))[:500]
    views = [resize(to_tensor(read(photo)), (48, 64))[0].permute(1, 2, 0).contiguous().numpy() for photo in photos]
    for number in range(10**6):
        view = views[number % len(views)]
        turn = number // len(views)
        yield simplejpeg.encode_jpeg(view[turn % 16 :, turn // 16 :].copy(), quality=80)


def accuracy(model: str) -> dict[str, float]:
    """What decoding large photographs smaller changes: the worst cosine of class tokens to the exact ones."""
    backbone = load(model)
    worst = {}
    for name, folder in (("12 to 24 megapixels", "hires"), ("640 x 480", "coco_mini")):
        photos = sorted((data_folder() / folder).rglob("*.jpg"))[:40]
        stream = Stream(open_pictures([str(photo) for photo in photos]), backbone, SIZE, 1, lambda features: [])
        for size in (96, SIZE):
            fast = Stream(stream.pictures, backbone, size, 1, stream.keep)
            cosines = [
                torch.cosine_similarity(
                    backbone.encode_views([fast.view(i)[0]], [(1, 1)])[0].cls, backbone.encode(photo, size).cls
                ).item()
                for i, photo in enumerate(photos)
            ]
            worst[f"{name}, {size} px"] = min(cosines, default=float("nan"))
    return worst


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
        results["peak_mib"] = memory(folder, (2_000, 20_000))
    results["worst_cosine_of_scaled_decoding"] = accuracy(MODELS[0])
    show("peak memory", ("pictures", "MiB"), list(results["peak_mib"].items()))
    show(
        "scaled decoding, class token",
        ("photographs", "worst cosine"),
        list(results["worst_cosine_of_scaled_decoding"].items()),
    )
    for model, found in results["models"].items():
        share = found["share_of_forward"]
        print(f"{model}: {share:.1%} of the forward rate, bar {BAR:.0%}: {'reached' if share >= BAR else 'MISSED'}")
    print(write("embed", results))


if __name__ == "__main__":
    main()
