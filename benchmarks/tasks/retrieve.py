"""Retrieval: mAP by class on `caltech101`.

    python -m benchmarks.tasks.retrieve

Each test picture is a query against all others. The size of 160 px, the shrinkage of the whitening and how re-ranking
weighs patches were chosen on the training part; whitening is fitted on the training part, or on the test pictures
themselves without their labels, as `dinokit search` does.
"""

import io
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.tasks.models import RANDOM, run_alone
from dinokit.data.opening import open_pictures
from dinokit.data.pictures import Pictures
from dinokit.heads.retrieval_scores import score_rankings
from dinokit.inference.backbone import Backbone
from dinokit.inference.embed import take_vectors
from dinokit.inference.stream import Stream
from dinokit.inference.vector_space import Moments, Whitening, join

SIZE = 160

Vectors = NDArray[np.float32]


def measure(models: Mapping[str, Backbone], data: Path) -> list[dict[str, Any]]:
    """mAP in per cent of each kind of vector."""
    train, test = (open_pictures(data / "caltech101" / f"{part}.tar.gz") for part in ("train", "test"))
    labels = np.array([test.label(i) for i in range(len(test))])

    def row(what: str, vectors: Vectors, of: str) -> dict[str, Any]:
        return {"job": "retrieve", "on": "caltech101 test", "what": what, "vector": of, "mAP %": score(vectors, labels)}

    rows = [row("colour histogram", np.stack([histogram(test, i) for i in range(len(test))]), "512 colours, Hellinger")]
    for name, backbone in models.items():
        seen, fitted = embed(backbone, test), embed(backbone, train)
        kinds = {"cls": [0], "mean": [1], "cls+mean": [0, 1]}
        for kind, columns in kinds.items() if name != RANDOM else [("cls", [0]), ("mean", [1])]:
            mine, others = (join([part[i] for i in columns]) for part in (seen, fitted))
            rows.append(row(name, mine, kind))
            rows.append(row(name, whiten(others)(mine), f"{kind}, whitened on train"))
            rows.append(row(name, whiten(mine)(mine), f"{kind}, whitened on itself"))
    return rows


def embed(backbone: Backbone, pictures: Pictures) -> list[Vectors]:
    """Class tokens and means of the patches, [N, D] each."""
    stream = Stream(pictures, backbone, SIZE, 16, partial(take_vectors, tokens="cls+mean"))
    found = [seen.found for chunk in stream.chunks(range(len(pictures))) for seen in chunk]
    return [np.stack(column) for column in zip(*(vectors for vectors in found if vectors is not None), strict=True)]


def whiten(vectors: Vectors) -> Whitening:
    """Fitted on these."""
    moments = Moments(vectors.shape[1])
    moments.add(vectors)
    return Whitening.fit(moments)


def histogram(pictures: Pictures, i: int) -> Vectors:
    """The square roots of the shares of 8 x 8 x 8 colours: their products are Bhattacharyya coefficients."""
    pixels = np.asarray(Image.open(io.BytesIO(pictures.read_bytes(i))).convert("RGB")).reshape(-1, 3).astype(int) // 32
    counts = np.bincount(pixels @ np.array([64, 8, 1]), minlength=512)
    return np.sqrt(counts / counts.sum()).astype(np.float32)


def score(vectors: Vectors, labels: NDArray[np.int64]) -> float:
    """mAP in per cent, each vector a query against all others; the same class is right."""
    rankings = np.argsort(-(vectors @ vectors.T), axis=1)
    right = [set(np.flatnonzero(labels == label).tolist()) - {i} for i, label in enumerate(labels)]
    junk = [[i] for i in range(len(labels))]  # the query itself
    return round(100 * score_rankings(rankings.tolist(), right, junk).mean_average_precision, 2)


if __name__ == "__main__":
    run_alone(measure)
