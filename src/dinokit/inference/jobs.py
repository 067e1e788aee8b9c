"""Long jobs over a list of pictures: what makes two of them the same, and the folder that belongs to one.

A folder of unfinished work says in `job.json` whose it is, so that the same command continues it and no other
command mixes its results into it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dinokit.checkpoints.names import lossless
from dinokit.checkpoints.save import write_atomically
from dinokit.data.pictures import Pictures
from dinokit.errors import UserError
from dinokit.images.geometry import fit_to_grid
from dinokit.inference.backbone import Backbone

JOB = "job.json"


def check_numbers(batch_size: int, size: int | None, patch: int) -> None:
    """Raise `UserError` for a batch or a size that cannot be: an error before the work."""
    if batch_size < 1:
        raise UserError(f"--batch-size is {batch_size}", "give 1 or more")
    if size is not None:
        fit_to_grid(1, 1, size, patch)


def network_digest(backbone: Backbone) -> str:
    """What tells networks of other shape or picture statistics apart."""
    config = backbone.info.to_config()
    network = json.dumps([config[name] for name in ("network", "mean", "std")])
    return hashlib.sha256(network.encode()).hexdigest()


def describe_job(pictures: Pictures, backbone: Backbone, size: int, **options: str) -> dict[str, Any]:
    """What makes two jobs the same: the model, how pictures are read, which pictures in which order, and `options`."""
    names = hashlib.sha256()
    for i in range(len(pictures)):
        names.update(lossless(pictures.place(i)).encode() + b"\0")
    return {
        "model": backbone.info.name,
        "weights_sha256": backbone.info.weights_sha256,
        "network_sha256": network_digest(backbone),
        "precision": str(backbone.dtype).removeprefix("torch."),
        "size": size,
        "pictures": len(pictures),
        "list_sha256": names.hexdigest(),
        **options,
    }


def check_unused(folder: Path) -> None:
    """Raise `UserError` for a folder that holds files but no job."""
    visible = (path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else iter(())
    if any(visible) and not (folder / JOB).exists():
        raise UserError(f"--out {folder} holds other files", "name a new folder")


def claim(folder: Path, job: Mapping[str, Any]) -> None:
    """Make the folder this job's, or check that it is; `UserError` if it belongs to another job."""
    path = folder / JOB
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        write_atomically(path, (json.dumps(job, indent=1) + "\n").encode())
        return
    except OSError as problem:
        raise UserError(f"cannot read {path} ({problem.strerror})", "check that folder") from None
    except (ValueError, RecursionError):
        found = None
    if found != job:
        other = [name for name in job if not isinstance(found, dict) or found.get(name) != job[name]]
        what = f"{folder} holds the work of another job (other {', '.join(other)})"
        raise UserError(what, "finish that one, delete the folder, or choose another --out")
