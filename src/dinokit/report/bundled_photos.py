"""The dozen photos that the package carries, with whose they are, read from their CREDITS.md."""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

FOLDER = Path(str(resources.files("dinokit.report"))) / "demo_photos"
TWO_VIEWS = ("swings-1.jpg", "swings-2.jpg")


@dataclass(frozen=True)
class BundledPhoto:
    """A photo file of the package."""

    path: Path
    name: str
    """What it shows, in a few words."""
    credit: str
    """Who made it and under which licence."""


def bundled_photos() -> list[BundledPhoto]:
    """In the order of CREDITS.md; the last two are two views of one place."""
    photos = []
    for line in (FOLDER / "CREDITS.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0].endswith(".jpg"):
            file, name, author, licence, _source = cells
            photos.append(BundledPhoto(FOLDER / file, name, f"{author}, {licence}"))
    return photos
