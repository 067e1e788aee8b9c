"""Where the reference data lies: the folder named by DINOKIT_DATA, or shared/data beside the repository."""

import os
from pathlib import Path

from dinokit.errors import UserError

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"


def data_folder() -> Path:
    """The folder of data sets; `UserError` if there is none."""
    folder = Path(os.environ.get("DINOKIT_DATA", BESIDE))
    if not folder.is_dir():
        raise UserError(f"there is no data folder {folder}", "set DINOKIT_DATA to the folder of the reference data")
    return folder
