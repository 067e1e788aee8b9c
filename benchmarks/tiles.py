"""Features of large pictures in tiles beside those of one pass: how alike, whether seams show, memory, time.

    python -m benchmarks.tiles [--model MODEL] [--sides 1024 2048] [--tiles 512 1024]

Pictures: the photographs of `hires` among the data. `cosine`: between the patches of both ways, median and the worst
twentieth. `seams`: how much more neighbouring patches differ (1 - cosine) where a tile begins or ends than elsewhere,
divided by the same figure of the one pass; 1 means that no seam shows.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.data import data_folder
from benchmarks.results import show, write
from dinokit.backbones.features import Features
from dinokit.images.tiles import plan_tiles
from dinokit.inference.backbone import Backbone, load


def compare(backbone: Backbone, picture: Path, side: int, tile: int) -> dict[str, float]:
    """Figures of one picture read at a short side of `side` pixels."""
    whole, seconds = _timed(backbone, picture, side, None)
    tiled, tiled_seconds = _timed(backbone, picture, side, tile)
    cosines = torch.cosine_similarity(whole.patches, tiled.patches, dim=-1).flatten()
    multiple = backbone.spec.side_multiple // backbone.patch_size
    plan = plan_tiles(*(length // multiple for length in whole.patches.shape[1:3]), tile // backbone.spec.side_multiple)
    return {
        "median": cosines.median().item(),
        "worst twentieth": cosines.quantile(0.05).item(),
        "class token": torch.cosine_similarity(whole.cls, tiled.cls).item(),
        "seams": _seams(tiled.patches[0], plan.tops, plan.height) / _seams(whole.patches[0], plan.tops, plan.height),
        "seconds": seconds,
        "seconds in tiles": tiled_seconds,
    }


def _timed(backbone: Backbone, picture: Path, side: int, tile: int | None) -> tuple[Features, float]:
    started = time.perf_counter()
    features = backbone.encode(picture, size=side, tile=tile)
    assert isinstance(features, Features)
    return features, time.perf_counter() - started


def _seams(patches: Tensor, tops: tuple[int, ...], height: int) -> float:
    """How much more rows of patches [h, w, D] differ where tiles begin or end than elsewhere."""
    steps = 1 - torch.cosine_similarity(patches[1:], patches[:-1], dim=-1).mean(dim=1)  # row i to row i + 1
    edges = sorted({top - 1 for top in tops if top} | {top + height - 1 for top in tops if top + height <= len(steps)})
    elsewhere = torch.ones(len(steps), dtype=torch.bool)
    elsewhere[edges] = False
    return (steps[edges].mean() / steps[elsewhere].mean()).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="dinokit_vitt16")
    parser.add_argument("--sides", type=int, nargs="+", default=[1024, 2048])
    parser.add_argument("--tiles", type=int, nargs="+", default=[512, 1024])
    options = parser.parse_args()
    backbone = load(options.model)
    pictures = sorted(path for path in (data_folder() / "hires").iterdir() if path.suffix == ".jpg")
    rows: list[dict[str, Any]] = []
    for side in options.sides:
        for tile in (tile for tile in options.tiles if tile < side):
            figures = [compare(backbone, picture, side, tile) for picture in pictures]
            means = {name: sum(figure[name] for figure in figures) / len(figures) for name in figures[0]}
            rows.append({"side": side, "tile": tile, **{name: round(value, 3) for name, value in means.items()}})
            print(rows[-1], flush=True)
    show(f"{options.model}, {len(pictures)} photographs", list(rows[0]), [list(row.values()) for row in rows])
    print(write("tiles", {"model": options.model, "pictures": len(pictures), "rows": rows}))


if __name__ == "__main__":
    main()
