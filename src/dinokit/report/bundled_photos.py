"""The dozen photos that the package carries, with whose they are, read from their CREDITS.md."""

import re
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
    credit: str = ""
    """Who made it and under which licence."""
    source: str = ""
    """Where it was found, and the licence's address."""


def bundled_photos() -> list[BundledPhoto]:
    """In the order of CREDITS.md; the last two are two views of one place."""
    photos = []
    text = (FOLDER / "CREDITS.md").read_text(encoding="utf-8")
    licences = dict(re.findall(r"(CC[\w .]+?) <(\S+)>", text))
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0].endswith(".jpg"):
            file, name, author, licence, source = cells
            source = f"{re.sub('[<>`]', '', source)}; licence: {licences[licence]}"
            photos.append(BundledPhoto(FOLDER / file, name, f"{author}, {licence}", source))
    return photos
