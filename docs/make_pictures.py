"""Makes pictures of the guides anew, as the guides make them, with the model of the package.

    python docs/make_pictures.py DATA [NAME...]

DATA: the folder of labelled pictures that `benchmarks` reads. NAME: some of the pictures; without it, all. Credits
stand below the pictures in the guides.
"""

import argparse
import csv
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import dinokit
from dinokit.data.coco import read_coco

Picture = NDArray[np.uint8]
HERE = Path(__file__).parent
PHOTOS = HERE.parent / "src/dinokit/report/demo_photos"
CELL, GAP = 243, 12
OFTEN = 10
"""Pictures that show a class, for it to be learnt."""
FRAMES, HEIGHT = 13, 360


def run(*arguments: object) -> None:
    """A command of dinokit."""
    subprocess.run([sys.executable, "-m", "dinokit", *map(str, arguments)], check=True)


def read(path: Path) -> Image.Image:
    """A picture that a command wrote."""
    return Image.open(path).convert("RGB")


def find(data: Path, number: int) -> Path:
    """A photograph of COCO by its number."""
    [found] = (data / "coco_mini").glob(f"*/{number:012d}.jpg")
    return found


def stack(pictures: Sequence[Image.Image], width: int) -> Image.Image:
    """Pictures of one width below one another."""
    scaled = [one.resize((width, round(one.height * width / one.width)), Image.Resampling.LANCZOS) for one in pictures]
    whole = Image.new("RGB", (width, sum(one.height for one in scaled) + GAP * (len(scaled) - 1)), "white")
    top = 0
    for one in scaled:
        whole.paste(one, (0, top))
        top += one.height + GAP
    return whole


def grid(rows: Sequence[Sequence[Picture]]) -> Image.Image:
    """Rows of pictures, each in the middle of a square."""
    side = CELL + GAP
    whole = Image.new("RGB", (side * len(rows[0]) + GAP, side * len(rows) + GAP), "white")
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            one = Image.fromarray(picture)
            one.thumbnail((CELL, CELL), Image.Resampling.LANCZOS)
            place = GAP + column * side + (CELL - one.width) // 2, GAP + row * side + (CELL - one.height) // 2
            whole.paste(one, place)
    return whole


def features(data: Path, work: Path) -> dict[str, Image.Image]:
    """Colours and foreground."""
    run("show", PHOTOS / "noodles.jpg", PHOTOS / "train.jpg", "--out", work)
    return {
        "features": read(work / "noodles-features.png"),
        "features-train": read(work / "train-features.png"),
    }


def classify(data: Path, work: Path) -> dict[str, Image.Image]:
    """Aerial scenes that are taken for one another."""
    scenes = data / "rsscn7"
    run("classify", "fit", scenes / "train.tar.gz", "--out", work / "head", "--size", 256, "--cells", 4)
    run("classify", "evaluate", work / "head", scenes / "test.tar.gz", "--confusion", work / "confusion.png")
    return {"classify-confusion": read(work / "confusion.png")}


def labels(data: Path, work: Path) -> dict[str, Image.Image]:
    """What a photograph shows, by a head that learnt from others with several labels each."""
    known = read_coco(data / "coco_mini/train.json")
    shown = [{known.categories[one.category] for one in picture.instances} for picture in known.pictures]
    often = {name for name, count in Counter(name for names in shown for name in names).items() if count >= OFTEN}
    with (work / "labels.csv").open("w", newline="") as file:
        rows = (
            [picture.path, ";".join(sorted(names & often))]
            for picture, names in zip(known.pictures, shown, strict=True)
        )
        csv.writer(file).writerows([["path", "label"], *rows])
    classifier = dinokit.Classifier(dinokit.load("dinokit_vitt16"))
    classifier.fit(work / "labels.csv")
    return {"classify": Image.fromarray(classifier.predict(find(data, 397133)).draw())}


def retrieve(data: Path, work: Path) -> dict[str, Image.Image]:
    """What is most like two photographs, among those of COCO."""
    photos, table = data / "coco_mini/train", work / "photos.parquet"
    run("embed", photos, "--out", table)
    queries = [find(data, number) for number in (51191, 286994)]
    run("search", *queries, "--in", table, "--k", 4, "--out", work / "hits.jpg")
    return {"retrieve": read(work / "hits.jpg")}


def segment(data: Path, work: Path) -> dict[str, Image.Image]:
    """A street, by a head that learnt from others."""
    run("segment", "fit", data / "camvid/train", "--out", work / "head", "--size", 512)
    run("segment", "predict", work / "head", PHOTOS / "street-in-paris.jpg", "--out", work / "labels")
    return {"segment": stack([read(work / "labels/street-in-paris-drawn.jpg")], 900)}


def depth(data: Path, work: Path) -> dict[str, Image.Image]:
    """Kitchens, by a head that learnt from another one."""
    run("depth", "fit", data / "rgbd_room/train", "--out", work / "head", "--size", 336, "--range", 0.5, 5)
    kitchens = [find(data, number) for number in (30213, 177977)]
    run("depth", "predict", work / "head", *kitchens, "--out", work / "depth")
    return {"depth": stack([read(work / "depth" / f"{kitchen.stem}-drawn.jpg") for kitchen in kitchens], 1048)}


def match(data: Path, work: Path) -> dict[str, Image.Image]:
    """Two views of a wall, and two moments at the swings."""
    graf = [data / "graf/graf" / name for name in ("img1.jpg", "img3.jpg")]
    run("match", *graf, "--homography", "--out", work / "homography.jpg")
    run("match", PHOTOS / "swings-1.jpg", PHOTOS / "swings-2.jpg", "--out", work / "swings.jpg")
    wall, swings = read(work / "homography.jpg"), read(work / "swings.jpg")
    swings.thumbnail((724, 640), Image.Resampling.LANCZOS)
    return {"match-homography": stack([wall], 1200), "match-swings": swings}


def track(data: Path, work: Path) -> dict[str, Image.Image]:
    """A laptop over cats and a person over a bathroom: cut out of one photograph, and moved and turned over another."""
    tracker = dinokit.Tracker(dinokit.load("dinokit_vitt16"))
    rows = [
        _follow(tracker, data, (553664, 0), 555705, [(60, 50), (140, 30)], 14),
        _follow(tracker, data, (790, 7), 540186, [(150, 60), (300, 40)], -8),
    ]
    return {"track": stack(rows, 1280)}


def _follow(
    tracker: dinokit.Tracker, data: Path, thing: tuple[int, int], ground: int, way: list[tuple[int, int]], turn: float
) -> Image.Image:
    """First, middle and last frame of an object (photograph, number) that goes its way over another photograph."""
    known = read_coco(data / "coco_mini/train.json")
    [source] = [picture for picture in known.pictures if picture.path == find(data, thing[0])]
    mask = Image.fromarray(known.mask(source, source.instances[thing[1]]))
    piece, cut = Image.open(source.path).convert("RGB").crop(mask.getbbox()), mask.crop(mask.getbbox())
    below = Image.open(find(data, ground)).convert("RGB")
    below = below.crop((0, (below.height - HEIGHT) // 2, below.width, (below.height + HEIGHT) // 2))
    frames, masks = [], []
    for part in np.linspace(0, 1, FRAMES):
        place = tuple(round((1 - part) * a + part * b) for a, b in zip(*way, strict=True))
        frame, objects = below.copy(), Image.new("L", below.size)
        moved = cut.convert("L").rotate(turn * part, Image.Resampling.BICUBIC)
        frame.paste(piece.rotate(turn * part, Image.Resampling.BICUBIC), place, moved)
        objects.paste(moved, place)
        frames.append(np.asarray(frame))
        masks.append(np.asarray(objects) > 127)
    seen = [one.draw() for one in tracker.predict(iter(frames), masks[0])]
    return Image.fromarray(np.hstack([seen[0], seen[FRAMES // 2], seen[-1]]))


def discover(data: Path, work: Path) -> dict[str, Image.Image]:
    """What stands out, segments, colours and alike places of four photographs."""
    discoverer = dinokit.Discoverer(dinokit.load("dinokit_vitt16"))
    numbers, points = (311303, 547336, 475678, 165518), ((470, 200), (400, 280), (180, 230), (320, 330))
    photos = [find(data, number) for number in numbers]
    rows = [discoverer.predict(photos), discoverer.segments(photos), discoverer.colours(photos)]
    alike = [discoverer.similar(photo, point) for photo, point in zip(photos, points, strict=True)]
    return {"discover": grid([[one.draw() for one in row] for row in (*rows, alike)])}


MAKERS = (features, classify, labels, retrieve, segment, depth, match, track, discover)


def main() -> None:
    """Which pictures."""
    parser = argparse.ArgumentParser(description="Makes the pictures of the guides anew.")
    parser.add_argument("data", type=Path)
    names = [maker.__name__ for maker in MAKERS]
    parser.add_argument("names", nargs="*", choices=[*names, []], help="which pictures; all of them without")
    options = parser.parse_args()
    for maker in MAKERS:
        if maker.__name__ in (options.names or names):
            with tempfile.TemporaryDirectory() as work:
                for name, picture in maker(options.data, Path(work)).items():
                    ending = "png" if name == "classify-confusion" else "jpg"
                    picture.save(HERE / "pictures" / f"{name}.{ending}", quality=88, optimize=True)


if __name__ == "__main__":
    main()
