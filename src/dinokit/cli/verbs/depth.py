"""`dinokit depth`: metres for every pixel, learnt from pictures with depth maps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from dinokit.cli.learning import SETTINGS, Learning, head_folder, put_fitted
from dinokit.cli.models import AUTO, BUNDLED, Model, Opening, refuse_published
from dinokit.cli.options import Flag, Json, Layers, Out, Pixels
from dinokit.cli.verb import JOBS, Verb

if TYPE_CHECKING:
    from dinokit.tasks.depth import DepthEstimator

VERB = Verb(
    "depth",
    JOBS,
    4,
    "Give every pixel its depth: fit a head on pictures with depth maps, then predict or evaluate.",
    (
        "dinokit depth fit rooms/train --out rooms-head",
        "dinokit depth predict rooms-head new-rooms/ --out depth",
        "dinokit depth evaluate rooms-head rooms/test",
    ),
    "Pictures lie in DATA/images (or rgb), maps of the same names in DATA/depth: 16-bit PNG in millimetres, or NPY, "
    "PFM or EXR in metres; 0 is unknown. HEAD may also be a published weights file of a depth head, with --model.",
    (
        ("fit", "Train a head on pictures with depth maps."),
        ("predict", "Write the depth of pictures, and in colours beside the picture."),
        ("evaluate", "Measure a head on pictures with depth maps: RMSE, AbsRel, delta 1."),
    ),
)


Metres = Annotated[tuple[float, float], Parameter(negative=())]
"""The least and the greatest depth."""


def fit(
    data: str,
    /,
    *,
    out: Out,
    validation: str | None = None,
    head: Literal["linear", "dpt"] = "linear",
    range: Metres = (0.001, 10.0),
    model: Model = BUNDLED,
    size: Pixels | None = None,
    layers: Layers | None = None,
    augment: Flag = False,
    learning: Learning = SETTINGS,
    opening: Opening = AUTO,
    json: Json = False,
) -> None:
    """Train a head on pictures with depth maps.

    Parameters
    ----------
    data
        A folder with images/ and depth/, or a CSV file with the columns of both paths.
    out
        Folder for the head.
    validation
        Pictures with depth maps to choose the best step by; without it, a tenth of DATA.
    head
        linear, or dpt: finer, and many times slower to train.
    range
        The least and the greatest depth in metres; what lies beyond counts as unknown.
    size
        Short side in pixels at which pictures are looked at; larger is finer and takes longer.
    layers
        Blocks whose features the head reads, negative from the end; without it the last four (dpt: four spread).
    augment
        Mirror pictures and change their light each time they are learnt from; every step then needs the backbone.
    json
        Print one JSON object: rmse (m, on the validation pictures), step.
    """
    from dinokit.cli.output import track
    from dinokit.tasks.depth import WITHOUT_CROPS, DepthEstimator

    with head_folder(out) as keep:
        estimator = DepthEstimator(opening.backbone(model), size, layers, head, range)
        settings, changes = learning.settings(), WITHOUT_CROPS if augment else None
        fitted = estimator.fit(data, validation, settings=settings, augmentation=changes, track=track, keep=keep)
        estimator.save(out)
    put_fitted(fitted, f"RMSE {-fitted.score:.3f} m", {"rmse": round(-fitted.score, 4)}, out, json)


def predict(
    head: Path,
    images: list[str],
    /,
    *,
    out: Out = Path("depth"),
    format: Literal["png", "npy", "pfm", "exr"] = "png",
    model: Model | None = None,
    size: Pixels | None = None,
    layers: Layers | None = None,
    range: Metres | None = None,
    opening: Opening = AUTO,
    json: Json = False,
) -> None:
    """Write the depth of pictures, and in colours beside the picture.

    Parameters
    ----------
    head
        The folder that `fit` wrote, or a published weights file.
    images
        Pictures, folders or patterns.
    out
        Folder for NAME.png (or another format) with the depth, and NAME-drawn.jpg.
    format
        png: 16-bit millimetres, up to 65 m; npy, pfm, exr: float metres.
    model
        The backbone of a published head; that of a folder is known while it lies where it was.
    size
        Short side in pixels at which pictures are looked at; without it, the head's own, 768 for a published one.
    layers
        Blocks that a published head reads; without it, those of the publication.
    range
        The least and the greatest depth in metres of a published head; without it, those of the publication.
    json
        Print one JSON object: the files, and the least, median and greatest depth of each picture in metres.
    """
    from dinokit.cli.output import print_json, put, track, warn
    from dinokit.inference.views import expand
    from dinokit.tasks.results import predict_files

    estimator = _open(head, model, size, layers, range, opening)
    sources, found = expand(images), []
    results = predict_files(lambda source: next(estimator.predict_each([source])), sources, out, f".{format}", warn)
    for source, result, path in track(results, len(sources), "estimating depth"):
        found.append({"picture": str(source), "depth": str(path), "metres": result.metres()})
        if not json:
            put(path)
    if json:
        print_json({"pictures": found})


def evaluate(
    head: Path,
    data: str,
    /,
    *,
    align: Flag = False,
    model: Model | None = None,
    size: Pixels | None = None,
    layers: Layers | None = None,
    range: Metres | None = None,
    opening: Opening = AUTO,
    json: Json = False,
) -> None:
    """Measure a head on pictures with depth maps: RMSE, AbsRel, delta 1.

    Parameters
    ----------
    head
        The folder that `fit` wrote, or a published weights file.
    data
        A folder with images/ and depth/, or a CSV file with the columns of both paths.
    align
        Bring the depth of each picture to the true one by scale and shift first: how good its form is.
    model
        The backbone of a published head; that of a folder is known while it lies where it was.
    size
        Short side in pixels at which pictures are looked at; without it, the head's own, 768 for a published one.
    layers
        Blocks that a published head reads; without it, those of the publication.
    range
        The least and the greatest depth in metres of a published head; without it, those of the publication.
    json
        Print one JSON object: rmse, abs_rel, delta1, delta2, delta3, sq_rel, rmse_log, log_10, silog, mae, pictures.
    """
    from dinokit.cli.output import put_result, track

    score = _open(head, model, size, layers, range, opening).evaluate(data, align=align, track=track)
    put_result(score.to_row(), f"{'aligned: ' if align else ''}{score.describe()}", json)


def _open(
    head: Path,
    model: str | None,
    size: int | None,
    layers: list[int] | None,
    range: tuple[float, float] | None,
    opening: Opening,
) -> DepthEstimator:
    from dinokit.tasks.depth import DepthEstimator

    backbone = opening.of_head(head, model)
    if head.is_file():
        return DepthEstimator.from_published(head, backbone, size, layers, range)
    refuse_published(head, layers=layers, range=range)
    return DepthEstimator.load(head, backbone, size)
