"""The test pictures with their labels, as the folders that people have."""

import shutil
from collections.abc import Sequence
from pathlib import Path

LABELS = Path(__file__).parent / "labels"
PICTURES = Path(__file__).parent / "pictures"
NAMES = sorted(path.stem for path in PICTURES.glob("*.jpg"))


def segmentation_folder(folder: Path, names: Sequence[str] = tuple(NAMES)) -> Path:
    """images/, masks/ and classes.txt of these pictures, in `folder`."""
    for kind, source, suffix in (("images", PICTURES, ".jpg"), ("masks", LABELS / "masks", ".png")):
        (folder / kind).mkdir(parents=True)
        for name in names:
            shutil.copy(source / f"{name}{suffix}", folder / kind)
    shutil.copy(LABELS / "classes.txt", folder)
    return folder
