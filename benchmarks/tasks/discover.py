"""Objects found without labels on 128 COCO photos (CorLoc), beside a centred box and random weights.

    python -m benchmarks.tasks.discover

Size, layer, threshold and the share of the centred box were chosen on the 100 pictures of coco_mini/train; `val` are 28
others.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tasks.models import run_alone
from dinokit.images.read import size
from dinokit.inference.backbone import Backbone
from dinokit.tasks.discover import Discoverer
from dinokit.tasks.discover_score import DiscoveryScore, KnownObjects, read_objects, score_boxes

PARTS = ("train", "val")
SHARES = tuple(np.arange(0.1, 1.01, 0.05).round(2).tolist())
"""Shares of the picture that a centred box may cover."""


def measure(models: Mapping[str, Backbone], data: Path) -> list[dict[str, Any]]:
    """A row for each model and baseline: CorLoc in per cent on train, val and both, and the mean overlap."""
    known = {part: read_objects(data / "coco_mini" / f"{part}.json") for part in PARTS}
    best = max(SHARES, key=lambda share: _centred(known["train"], share).corloc)
    rows = [_row(f"centred box, {best:.0%} of the picture", {part: _centred(known[part], best) for part in PARTS})]
    for name, backbone in models.items():
        discoverer = Discoverer(backbone)
        scores = {part: discoverer.evaluate(data / "coco_mini" / f"{part}.json") for part in PARTS}
        rows.append(_row(name, scores))
    return rows


def _centred(known: list[KnownObjects], share: float) -> DiscoveryScore:
    """The score of boxes of the picture's shape in its middle."""
    boxes = []
    for entry in known:
        height, width = size(entry.path)
        middle, half = np.array([width, height]) / 2, np.array([width, height]) * share**0.5 / 2
        boxes.append(np.concatenate([middle - half, middle + half]))
    return score_boxes(boxes, known)


def _row(what: str, scores: Mapping[str, DiscoveryScore]) -> dict[str, Any]:
    found = np.concatenate([scores[part].found for part in PARTS])
    overlap = np.average([scores[part].overlap for part in PARTS], weights=[len(scores[part].found) for part in PARTS])
    corloc = {f"CorLoc {part}": round(scores[part].corloc, 1) for part in PARTS}
    whole = {"CorLoc all": round(100 * float(found.mean()), 1), "overlap": round(float(overlap), 3)}
    return {"job": "discover", "on": "coco_mini", "what": what} | corloc | whole


if __name__ == "__main__":
    run_alone(measure)
