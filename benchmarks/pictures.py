"""How fast one core reads pictures and brings them to a network's size, beside Pillow alone; and how far they differ.

Real photographs: small JPEGs as they are, large JPEGs as they are, and the large ones 1024 px wide in every other
format. Both ways take turns. Pillow alone opens, turns, converts to RGB and resizes (bicubic, antialiased) to the
same size. Run from the repository's root: `python -m benchmarks.pictures [--rounds 7]`; writes
benchmarks/results/pictures.json.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tarfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from benchmarks.data import data_folder
from benchmarks.machine import interleaved, median_ratio
from benchmarks.results import show, write
from dinokit.images.geometry import fit_to_grid, resize, to_tensor
from dinokit.images.read import read

SIDE, PATCH, WIDTH, SMALL = 224, 16, 1024, 48
Bytes = NDArray[np.uint8]


def ours(data: bytes, at_least: int = 0) -> Bytes:
    """Read and resize as `backbone.encode` does."""
    picture = read(data, at_least=at_least)
    target = fit_to_grid(picture.shape[0], picture.shape[1], SIDE, PATCH)
    return resize(to_tensor(picture), target)[0].permute(1, 2, 0).numpy()  # [h, w, 3]


def by_pillow(data: bytes) -> Bytes:
    """The same by Pillow alone."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    height, width = fit_to_grid(image.height, image.width, SIDE, PATCH)
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def each(work: Callable[[bytes], Bytes], files: Sequence[bytes]) -> None:
    """Read all files, and keep none."""
    for data in files:
        work(data)


def small_photos(folder: Path) -> list[bytes]:
    """The first JPEGs of a shard, short side 176 px."""
    with tarfile.open(folder / "photos" / "photos-0000.tar") as shard:
        members = [member for member in shard if member.name.endswith(".jpg")][:SMALL]
        return [file.read() for member in members if (file := shard.extractfile(member))]


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    """A picture as the bytes of a file."""
    buffer = io.BytesIO()
    if format == "HEIC":
        pillow_heif.from_pillow(image).save(buffer, quality=85)
    elif format == "TIFF, 16-bit LZW":
        values = np.asarray(image).astype(np.uint16) * 257
        tifffile.imwrite(buffer, values, photometric="rgb", compression="lzw", predictor=True)
    else:
        image.save(buffer, format.split(",")[0], **options)
    return buffer.getvalue()


def sets(folder: Path) -> dict[str, list[bytes]]:
    """Files by the name of their kind."""
    large = [path.read_bytes() for path in sorted((folder / "hires").glob("*.jpg"))]
    images = []
    for data in large:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        images.append(image.resize((WIDTH, round(WIDTH * image.height / image.width)), Image.Resampling.LANCZOS))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    kinds: dict[str, dict[str, Any]] = {
        "JPEG, 1024 px": {"quality": 90},
        "JPEG, 1024 px, progressive": {"quality": 90, "progressive": True},
        "JPEG, 1024 px, sRGB profile": {"quality": 90, "icc_profile": srgb},
        "PNG": {},
        "WebP": {"quality": 85},
        "AVIF": {"quality": 75},
        "HEIC": {},
        "TIFF, LZW": {"compression": "tiff_lzw"},
        "TIFF, 16-bit LZW": {},
        "BMP": {},
        "GIF": {},
    }
    made = {name: [encoded(image, name, **options) for image in images] for name, options in kinds.items()}
    return {"JPEG, 176 px": small_photos(folder), "JPEG, 3000 px and more": large, **made}


def row(name: str, files: list[bytes], rounds: int, at_least: int = 0) -> dict[str, Any]:
    """Rates and differences of one kind; for scaled decoding the difference is to the exact one."""
    work = partial(ours, at_least=at_least)
    seconds = interleaved({"ours": partial(each, work, files), "pillow": partial(each, by_pillow, files)}, rounds)
    differences = [np.abs(work(data).astype(int) - by_pillow(data)) for data in files]
    return {
        "name": name,
        "pictures": len(files),
        "per_second": round(len(files) / statistics.median(seconds["ours"]), 1),
        "pillow_per_second": round(len(files) / statistics.median(seconds["pillow"]), 1),
        "times_pillow": round(median_ratio(seconds["pillow"], seconds["ours"]), 2),
        "largest_difference": int(max(difference.max() for difference in differences)),
        "mean_difference": round(float(np.mean([difference.mean() for difference in differences])), 4),
    }


def measure(rounds: int) -> dict[str, Any]:
    """All rows."""
    torch.set_num_threads(1)
    pillow_heif.options.DECODE_THREADS = 1
    pillow_heif.register_heif_opener()  # what "Pillow alone" needs for HEIC
    files = sets(data_folder())
    rows = [row(name, files[name], rounds) for name in files]
    name = "JPEG, 3000 px and more"
    rows.insert(2, row(f"{name}, at_least={2 * SIDE}", files[name], rounds, 2 * SIDE))
    return {"job": f"read and resize to a short side of {SIDE} px, one core", "rounds": rounds, "rows": rows}


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    result = measure(parser.parse_args().rounds)
    path = write("pictures", result)
    header = ("", "pictures", "pictures/s", "Pillow", "× Pillow", "max. diff.", "mean diff.")
    show(result["job"], header, [list(row.values()) for row in result["rows"]])
    print(path)


if __name__ == "__main__":
    main()
