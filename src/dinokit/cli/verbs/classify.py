"""`dinokit classify`: which class a picture belongs to, learnt from labelled pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dinokit.cli.learning import head_folder
from dinokit.cli.models import AUTO, BUNDLED, Model, Opening, published_classes, refuse_published
from dinokit.cli.options import ClassFile, Counts, Json, Out, Pixels, Whole
from dinokit.cli.verb import JOBS, Verb
from dinokit.errors import UserError

if TYPE_CHECKING:
    from dinokit.tasks.classify import Classifier

VERB = Verb(
    "classify",
    JOBS,
    1,
    "Give pictures a class: fit a head on labelled pictures, then predict or evaluate.",
    (
        "dinokit classify fit animals/train --out animals-head",
        "dinokit classify predict animals-head new/*.jpg --out predictions.csv",
        "dinokit classify evaluate animals-head animals/test --confusion confusion.png --mistakes mistakes.jpg",
        "dinokit classify fewshot animals/train --test animals/test --counts 1 5",
    ),
    "DATA is a folder with a folder per class, tar shards with .cls members, or a CSV file of path,label "
    "(path,label;label where pictures have several).",
    (
        ("fit", "Train a head on labelled pictures."),
        ("predict", "Say the class of pictures, with calibrated probabilities."),
        ("evaluate", "Measure a head on labelled pictures."),
        ("fewshot", "Measure what a few pictures of each class suffice for."),
    ),
)


def fit(
    data: str,
    /,
    *,
    out: Out,
    method: Literal["logistic", "ridge", "linear", "knn"] = "logistic",
    validation: str | None = None,
    model: Model = BUNDLED,
    size: Pixels | None = None,
    blocks: Whole | None = None,
    cells: Whole | None = None,
    layer: int | None = None,
    signed: bool = False,
    k: Whole | None = None,
    steps: Whole | None = None,
    seed: Whole | None = None,
    opening: Opening = AUTO,
    json: Json = False,
) -> None:
    """Train a head on labelled pictures.

    Parameters
    ----------
    data
        A folder with a folder per class, tar shards with .cls members, or a CSV file of path,label[;label].
    out
        Folder for the head.
    method
        logistic: logistic regression, its strength chosen by cross-validation; ridge: least squares instead, often
        better with few pictures and many cells; linear: the published sweep of learning rates and inputs; knn: nearest
        neighbours vote.
    validation
        Labelled pictures to choose and to calibrate by; without it, parts of DATA are held out in turn.
    size
        Pictures are squashed to a square of this side in pixels; without it, the size the model was trained at.
    blocks
        Last blocks whose class tokens are read; without it four, for knn one.
    cells
        Patches are read as the means of N x N parts of the picture: 1 is the mean of all, 4 keeps where things are, 0
        leaves them out. Without it 1, for knn 0.
    layer
        The block whose patches are read, from 0, or negative from the end; without it the last. Those before it know
        more of form and less of meaning.
    signed
        Positive and negative parts of the patches have means of their own: opposites do not cancel out. For knn give
        --cells too.
    k
        Of knn: number of neighbours; without it 20, or all where there are fewer.
    steps
        Of linear: steps of training at most; without it 1000.
    seed
        Of linear: decides the first weights, the order of the pictures and what is held out; without it 0.
    json
        Print one JSON object: score (on what was held out), chosen, temperature, classes.
    """
    from dinokit.cli.output import put_result, track
    from dinokit.heads.linear_probe import probe_settings
    from dinokit.tasks.classify import Classifier, default_features

    for name, value in (("--steps", steps), ("--seed", seed)):
        if value is not None and method != "linear":
            raise UserError(f"{name} belongs to the method linear", "leave it out, or take --method linear")
    with head_folder(out) as keep:
        backbone = opening.backbone(model)
        classifier = Classifier(
            backbone, size, method, default_features(backbone, method, blocks, cells, layer, signed)
        )
        found = classifier.fit(data, validation, settings=probe_settings(steps, seed), k=k, track=track, keep=keep)
        classifier.save(out)
    text = f"{found.describe(classifier.several)}; the head is in {out}"
    put_result({**found.to_row(), "classes": classifier.classes}, text, json)


def predict(
    head: Path,
    images: list[str],
    /,
    *,
    out: Path | None = None,
    model: Model | None = None,
    classes: ClassFile | None = None,
    top: Whole = 1,
    opening: Opening = AUTO,
    json: Json = False,
) -> None:
    """Say the class of pictures, with calibrated probabilities.

    Parameters
    ----------
    head
        The folder that `fit` wrote, or a published linear head (a file; name its --model).
    images
        Pictures, folders or patterns.
    out
        A table of all pictures: path, label, probability and the probability of each class. FILE.csv.
    model
        The backbone of a published head; that of a folder is known while it lies where it was.
    classes
        A file with the name of a class in each line, for a published head; without it, classes are numbers.
    top
        Classes to print of each picture.
    json
        Print one JSON object: of each picture its labels, and the `top` classes with their probabilities.
    """
    from dinokit.cli.output import print_json, put, track, warn
    from dinokit.images.read import name_of
    from dinokit.inference.views import expand
    from dinokit.tasks.classify_results import prediction_table
    from dinokit.tasks.results import each_readable
    from dinokit.tasks.task import BATCH

    if top < 1:
        raise UserError(f"--top is {top}", "give the number of classes to print, 1 or more")
    sources = expand(list(images))
    classifier = _open(head, model, classes, opening)
    found = each_readable(classifier.predict_each, sources, warn, BATCH)
    rows = []
    with prediction_table(out, classifier.classes) as add:
        for i, result in track(found, len(sources), "classifying"):
            name = name_of(sources[i])
            add(name, result)
            if json:
                rows.append({"picture": name, **result.to_row(top)})
            else:
                put(f"{name}: {result.describe(top)}")
    if json:
        print_json({"pictures": rows})


def evaluate(
    head: Path,
    data: str,
    /,
    *,
    confusion: Path | None = None,
    mistakes: Path | None = None,
    model: Model | None = None,
    classes: ClassFile | None = None,
    opening: Opening = AUTO,
    json: Json = False,
) -> None:
    """Measure a head on labelled pictures.

    Parameters
    ----------
    head
        The folder that `fit` wrote, or a published linear head (a file; name its --model).
    data
        A folder with a folder per class, tar shards with .cls members, or a CSV file of path,label[;label].
    confusion
        Draw which class is taken for which into this picture, FILE.png or FILE.jpg.
    mistakes
        Draw the worst mistakes into this picture, FILE.jpg or FILE.png.
    model
        The backbone of a published head; that of a folder is known while it lies where it was.
    classes
        A file with the name of a class in each line, for a published head; without it, classes are numbers.
    json
        Print one JSON object: top1, top5, mean_per_class, mean_ap, calibration_error (%), by_class.
    """
    from dinokit.cli.output import put_result, say, track
    from dinokit.data.labelled import open_labelled
    from dinokit.tasks.results import check_name, check_not_input, save_picture

    judged = open_labelled(data)
    places = [judged.pictures.place(i) for i in range(len(judged))]
    for path in (confusion, mistakes):
        if path is not None:
            check_name(path)
            check_not_input(path, places)
    score = _open(head, model, classes, opening).evaluate(judged, track=track)
    if confusion is not None:
        save_picture(confusion, score.draw_confusion())
    if mistakes is not None and score.mistakes:
        save_picture(mistakes, score.draw_mistakes())
    elif mistakes is not None:
        say(f"there are no mistakes to draw into {mistakes}")
    by_class = {name: round(value, 2) for name, value in score.by_class.items()}
    put_result({**score.to_row(), "by_class": by_class}, score.describe(), json)


def fewshot(
    data: str,
    /,
    *,
    test: str,
    counts: Counts | None = None,
    draws: Whole = 5,
    method: Literal["logistic", "ridge", "knn"] = "logistic",
    model: Model = BUNDLED,
    size: Pixels | None = None,
    blocks: Whole | None = None,
    cells: Whole | None = None,
    layer: int | None = None,
    signed: bool = False,
    opening: Opening = AUTO,
    json: Json = False,
) -> None:
    """Measure what a few pictures of each class suffice for.

    Parameters
    ----------
    data
        Labelled pictures that are drawn from.
    test
        Labelled pictures to measure on.
    counts
        Numbers of pictures of each class to learn from; without it 1, 2, 5 and 10.
    draws
        How often the pictures are drawn anew for each number.
    method
        logistic, ridge or knn.
    size
        Pictures are squashed to a square of this side in pixels; without it, the size the model was trained at.
    blocks
        Last blocks whose class tokens are read; without it four, for knn one.
    cells
        Patches are read as the means of N x N parts of the picture. Without it 1, for knn 0.
    layer
        The block whose patches are read, from 0, or negative from the end; without it the last.
    signed
        Positive and negative parts of the patches have means of their own. For knn give --cells too.
    json
        Print one JSON object: for each count mean, deviation and scores (top-1, %).
    """
    from dinokit.cli.output import put_result, track
    from dinokit.tasks.classify import COUNTS, Classifier, default_features

    backbone = opening.backbone(model)
    classifier = Classifier(backbone, size, method, default_features(backbone, method, blocks, cells, layer, signed))
    found = classifier.few_shot(data, test, counts or COUNTS, draws, track=track)
    text = "\n".join(row.describe() for row in found)
    put_result({"few_shot": [row.to_row() for row in found]}, text, json)


def _open(head: Path, model: str | None, classes: Path | None, opening: Opening) -> Classifier:
    from dinokit.tasks.classify import Classifier

    backbone = opening.of_head(head, model)
    if head.is_file():
        return Classifier.from_published(head, backbone, classes=published_classes(classes))
    refuse_published(head, classes=classes)
    return Classifier.load(head, backbone)
