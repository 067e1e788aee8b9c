"""`dinokit segment`: a class for every pixel, learnt from pictures with masks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dinokit.cli.learning import SETTINGS, Learning, head_folder, put_fitted
from dinokit.cli.models import AUTO, BUNDLED, Model, Opening, published_classes, refuse_published
from dinokit.cli.options import ClassFile, Flag, Json, Layers, Out, Pixels, Scales, Whole
from dinokit.cli.verb import JOBS, Verb

if TYPE_CHECKING:
    from dinokit.tasks.segment import Segmenter

VERB = Verb(
    "segment",
    JOBS,
    3,
    "Give every pixel a class: fit a head on pictures with masks, then predict or evaluate.",
    (
        "dinokit segment fit streets/train --out streets-head",
        "dinokit segment predict streets-head new-streets/ --out labels",
        "dinokit segment evaluate streets-head streets/val",
    ),
    "Pictures lie in DATA/images, indexed or grey masks of the same names in DATA/masks; DATA/classes.txt names the "
    "classes, one a line from 0. HEAD may also be a linear head that Meta's code trained, with --model.",
    (
        ("fit", "Train a head on pictures with masks."),
        ("predict", "Write the classes of pictures as indexed PNG, and in colours over the picture."),
        ("evaluate", "Measure a head on pictures with masks: intersection over union."),
    ),
)


def fit(
    data: str,
    /,
    *,
    out: Out,
    validation: str | None = None,
    model: Model = BUNDLED,
    size: Pixels | None = None,
    layers: Layers | None = None,
    tile: Whole | None = None,
    ignore: Whole = 255,
    balance: float = 0.0,
    augment: Flag = False,
    learning: Learning = SETTINGS,
    opening: Opening = AUTO,
    json: Json = False,
) -> None:
    """Train a head on pictures with masks.

    Parameters
    ----------
    data
        A folder with images/ and masks/, a CSV file with the columns of both paths, or a COCO file.
    out
        Folder for the head.
    validation
        Pictures with masks to choose the best step by; without it, a tenth of DATA.
    size
        Short side in pixels at which pictures are looked at; larger gives finer borders and takes longer.
    layers
        Blocks whose features the head reads, negative from the end; without it, the last four.
    tile
        Side in pixels of a window that slides over larger pictures; without it, they are seen at once.
    ignore
        The mask value that counts for nothing.
    balance
        How much more rare classes count, from 0 (each pixel alike) to 1 (each class alike).
    augment
        Learn from crops, mirror images and other light, drawn anew each time: for few pictures, or on a GPU.
    json
        Print one JSON object: score (mean IoU on the validation pictures), step, classes.
    """
    from dinokit.cli.output import track
    from dinokit.heads.augment import Augmentation
    from dinokit.tasks.segment import LAYERS, Segmenter

    with head_folder(out) as keep:
        segmenter = Segmenter(opening.backbone(model), size, layers or LAYERS, tile)
        fitted = segmenter.fit(
            data,
            validation,
            ignore=ignore,
            balance=balance,
            settings=learning.settings(),
            augmentation=Augmentation() if augment else None,
            track=track,
            keep=keep,
        )
        segmenter.save(out)
    values = {"score": round(fitted.score, 2), "classes": segmenter.classes}
    put_fitted(fitted, f"mean IoU {fitted.score:.1f} %", values, out, json)


def predict(
    head: Path,
    images: list[str],
    /,
    *,
    out: Out = Path("segments"),
    flip: Flag = False,
    scales: Scales | None = None,
    model: Model | None = None,
    classes: ClassFile | None = None,
    layers: Layers | None = None,
    tile: Whole | None = None,
    opening: Opening = AUTO,
    json: Json = False,
) -> None:
    """Write the classes of pictures as indexed PNG, and in colours over the picture.

    Parameters
    ----------
    head
        The folder that `fit` wrote, or a file that Meta's code trained (name its --model).
    images
        Pictures, folders or patterns.
    out
        Folder for NAME.png, the numbers of the classes, and NAME-drawn.jpg.
    flip
        Look at each picture mirrored too, and take the mean.
    scales
        Look at each picture at these multiples of the size, and take the mean.
    model
        The backbone of a published head; that of a folder is known while it lies where it was.
    classes
        A file with the name of a class in each line, for a published head; without it, classes are numbers.
    layers
        Blocks that a published head reads; without it, the last.
    tile
        Side in pixels of a window that slides over larger pictures; without it, as the head was trained.
    json
        Print one JSON object: the files, and the share of each class in each picture.
    """
    from dinokit.cli.output import print_json, put, track, warn
    from dinokit.inference.views import expand
    from dinokit.tasks.results import predict_files

    segmenter = _open(head, model, classes, layers, tile, opening)
    sources, found = expand(images), []
    results = predict_files(
        lambda source: segmenter.predict_with_care(source, scales or (1.0,), flip), sources, out, ".png", warn
    )
    for source, result, path in track(results, len(sources), "segmenting"):
        found.append({"picture": str(source), "labels": str(path), "shares": result.shares()})
        if not json:
            put(path)
    if json:
        print_json({"pictures": found})


def evaluate(
    head: Path,
    data: str,
    /,
    *,
    ignore: Whole = 255,
    model: Model | None = None,
    classes: ClassFile | None = None,
    layers: Layers | None = None,
    tile: Whole | None = None,
    opening: Opening = AUTO,
    json: Json = False,
) -> None:
    """Measure a head on pictures with masks: intersection over union.

    Parameters
    ----------
    head
        The folder that `fit` wrote, or a file that Meta's code trained (name its --model).
    data
        A folder with images/ and masks/, a CSV file with the columns of both paths, or a COCO file.
    ignore
        The mask value that counts for nothing.
    model
        The backbone of a published head; that of a folder is known while it lies where it was.
    classes
        A file with the name of a class in each line, for a published head; without it, classes are numbers.
    layers
        Blocks that a published head reads; without it, the last.
    tile
        Side in pixels of a window that slides over larger pictures; without it, as the head was trained.
    json
        Print one JSON object: miou, pixel_accuracy, mean_accuracy (%), iou by class (null where there is none).
    """
    from dinokit.cli.output import put_result, track

    score = _open(head, model, classes, layers, tile, opening).evaluate(data, ignore=ignore, track=track)
    put_result({**score.to_row(), "iou": score.by_class()}, score.describe(), json)


def _open(
    head: Path,
    model: str | None,
    classes: Path | None,
    layers: list[int] | None,
    tile: int | None,
    opening: Opening,
) -> Segmenter:
    from dinokit.tasks.segment import PUBLISHED_SIZE, Segmenter

    backbone = opening.of_head(head, model)
    if head.is_file():
        tile = PUBLISHED_SIZE if tile is None else tile
        return Segmenter.from_published(head, backbone, layers=layers, tile=tile, classes=published_classes(classes))
    refuse_published(head, classes=classes, layers=layers)
    return Segmenter.load(head, backbone, tile)
