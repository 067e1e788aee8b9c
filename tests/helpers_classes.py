"""Labelled pictures: parts of photographs, each photograph a class, as the folders that people have."""

from pathlib import Path

import numpy as np
from PIL import Image

PHOTOS = Path(__file__).parents[1] / "src" / "dinokit" / "report" / "demo_photos"
CLASSES = ("dog", "noodles", "pizza", "train")
SIDE = 160


def part_of(name: str, random: np.random.Generator) -> Image.Image:
    """A square part of the photograph, 96 pixels a side, mirrored or not."""
    photo = Image.open(PHOTOS / f"{name}.jpg").convert("RGB")
    left, top = (int(random.integers(0, side - SIDE)) for side in photo.size)
    part = photo.crop((left, top, left + SIDE, top + SIDE)).resize((96, 96))
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else part


def class_folders(folder: Path, count: int, seed: int, classes: tuple[str, ...] = CLASSES) -> Path:
    """A folder for each class, with `count` parts of its photograph."""
    random = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            part_of(name, random).save(folder / name / f"{number}.jpg", quality=90)
    return folder


def pairs_csv(folder: Path, count: int, seed: int) -> Path:
    """Two parts beside each other in each picture, and a CSV file with the labels of both."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    rows = ["path,labels"]
    for number in range(count):
        names = random.choice(CLASSES, 2, replace=False)
        page = Image.new("RGB", (192, 96))
        for place, name in enumerate(names):
            page.paste(part_of(str(name), random), (96 * place, 0))
        page.save(folder / f"{number}.jpg", quality=90)
        rows.append(f"{number}.jpg,{';'.join(names)}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder / "labels.csv"
