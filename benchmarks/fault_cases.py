"""The cases of `benchmarks.faults`: case `number` of a campaign is the same on every machine.

A case ends as "read" (a valid picture, valid weights), "refused" (one line for the person) or as a `FaultError`, which
is a bug of ours, and so is every other exception.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import io
import json
import os
import random
import shutil
import struct
import warnings
import zipfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

from benchmarks.damage import EVERYWHERE, claim_giant
from dinokit.checkpoints.export import export_model
from dinokit.checkpoints.load import load_model
from dinokit.checkpoints.model import LoadedModel
from dinokit.checkpoints.save import CONFIG, WEIGHTS, save_model
from dinokit.errors import UserError
from dinokit.images import read as reading

PHOTO = Path(__file__).resolve().parents[1] / "tests" / "pictures" / "000000000790.jpg"
_SIDES = (61, 43)
"""Width and height of the pictures: numbers that stand for nothing else in a file."""


class FaultError(Exception):
    """Something that must not happen."""


def refusal(error: UserError, name: str) -> str:
    """How a refusal counts; a `FaultError` unless it is one line that names the file."""
    if "\n" in str(error) or name not in str(error):
        raise FaultError(f"the refusal is not one line about {name}: {error}")
    return "refused"


@lru_cache
def pictures() -> dict[str, bytes]:
    """One photograph in every format and mode that people have."""
    photo = Image.open(PHOTO).convert("RGB").resize(_SIDES)
    grey16 = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
    red = photo.transpose(Image.Transpose.ROTATE_180)
    exif = Image.Exif()
    exif[0x0112] = 6
    forms: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "jpeg": (photo, "JPEG", {}),
        "jpeg progressive, EXIF": (photo, "JPEG", {"progressive": True, "exif": exif}),
        "jpeg grey": (photo.convert("L"), "JPEG", {}),
        "jpeg CMYK": (photo.convert("CMYK"), "JPEG", {}),
        "png": (photo, "PNG", {"exif": exif}),
        "png palette": (photo.convert("P"), "PNG", {}),
        "png alpha": (photo.convert("RGBA"), "PNG", {}),
        "png 16 bit": (grey16, "PNG", {}),
        "webp": (photo, "WEBP", {"exif": exif}),
        "webp lossless": (photo.convert("RGBA"), "WEBP", {"lossless": True}),
        "webp animated": (photo, "WEBP", {"save_all": True, "append_images": [red]}),
        "avif": (photo, "AVIF", {}),
        "gif animated": (photo, "GIF", {"save_all": True, "append_images": [red]}),
        "bmp": (photo, "BMP", {}),
        "tiff": (photo, "TIFF", {}),
        "tiff deflate": (photo, "TIFF", {"compression": "tiff_deflate"}),
        "tiff lzw pages": (photo, "TIFF", {"compression": "tiff_lzw", "save_all": True, "append_images": [red]}),
        "tiff jpeg": (photo, "TIFF", {"compression": "jpeg"}),
        "tiff 16 bit": (grey16, "TIFF", {}),
        "tiff float": (photo.convert("F"), "TIFF", {}),
        "ppm": (photo, "PPM", {}),
        "jpeg 2000": (photo, "JPEG2000", {}),
    }
    if importlib.util.find_spec("pillow_heif"):
        import pillow_heif

        pillow_heif.register_heif_opener()
        forms["heic"] = (photo, "HEIF", {})
    found = {}
    for name, (image, form, options) in forms.items():
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        found[name] = buffer.getvalue()
    return found


def try_picture(number: int, folder: Path) -> tuple[str, str]:
    """(what it was, how it ended) of a damaged picture, read exactly, smaller, and asked for its size."""
    dice = random.Random(f"picture {number}")
    name, content = dice.choice(sorted(pictures().items()))
    if dice.randrange(6):
        way = dice.choice(EVERYWHERE)
        what, damaged = f"{name}: {way.__name__}", way(content, dice)
    else:
        what, damaged = f"{name}: claim_giant", claim_giant(content, _SIDES, dice)
    ends = {_read(damaged, at_least) for at_least in (0, 16)}
    try:
        height, width = reading.size(damaged, name="case")
        if height < 1 or width < 1:
            raise FaultError(f"the size is {height} x {width}")
    except UserError as error:
        refusal(error, "case")
    return what, "read" if "read" in ends else "refused"


def _read(content: bytes, at_least: int) -> str:
    try:
        picture = reading.read(content, name="case", at_least=at_least)
    except UserError as error:
        return refusal(error, "case")
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise FaultError(f"the picture is {picture.dtype} {picture.shape}")
    return "read"


@lru_cache
def checkpoints() -> dict[str, dict[str, bytes]]:
    """A small network as every kind of source: by kind, the files, the first of which is the one to load."""
    model = load_model("random:dinokit_vitt16", depth=1)
    state = {key: value.detach() for key, value in model.network.state_dict().items()}
    folder = Path(os.environ["TMPDIR"]) / "model"
    save_model(folder, state, model.info)
    zipped, legacy, nested = (io.BytesIO() for _ in range(3))
    torch.save(state, zipped)
    torch.save(state, legacy, _use_new_zipfile_serialization=False)
    torch.save({"teacher": {f"backbone.{key}": value for key, value in state.items()}}, nested)
    others = {layout: _exported(model, folder.with_name(layout), layout) for layout in ("transformers", "timm")}
    convnext = load_model("random:dinov3_convnext_tiny", depths=(1, 1, 1, 1), widths=(8, 16, 24, 32))
    others["convnext of transformers"] = _exported(convnext, folder.with_name("convnext"), "transformers")
    published = hashlib.sha256(zipped.getvalue()).hexdigest()[:8]
    return {
        "folder": {name: (folder / name).read_bytes() for name in (WEIGHTS, CONFIG)},
        "safetensors": {"w.safetensors": save(state)},
        "pth": {"w.pth": zipped.getvalue()},
        "pth with its hash": {f"dinov3_case_pretrain_web-{published}.pth": zipped.getvalue()},
        "pth of old": {"w.pth": legacy.getvalue()},
        "pth of a teacher": {"w.pth": nested.getvalue()},
        **others,
    }


def _exported(model: LoadedModel, folder: Path, layout: str) -> dict[str, bytes]:
    """The files of a folder in a layout that other programs read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what the layout leaves out
        export_model(folder, dict(model.network.state_dict()), model.info, layout)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir(), reverse=True)}


def try_checkpoint(number: int, folder: Path) -> tuple[str, str]:
    """(what it was, how it ended) of a damaged checkpoint."""
    dice = random.Random(f"checkpoint {number}")
    kind, files = dice.choice(sorted(checkpoints().items()))
    first = next(iter(files))
    executed = Path(os.environ["TMPDIR"]) / "executed"
    victim, way = dice.choice(sorted(files)), dice.choice(_ways(kind))
    way = damage_config if victim.endswith(".json") else way
    damaged = way(files[victim], dice)
    place = folder / "case"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    for name, content in files.items():
        (place / name).write_bytes(damaged if name == victim else content)
    what = f"{kind}: {way.__name__}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = load_model(place if CONFIG in files else place / first)
    except UserError as error:
        return what, refusal(error, "case")
    finally:
        if executed.exists():
            executed.unlink()
            raise FaultError("the code in a pickle was executed")
    for key, value in model.network.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise FaultError(f"{key} was taken although it is not finite")
    if damaged != files[victim] and not victim.endswith(".json") and kind in ("folder", "pth with its hash"):
        raise FaultError(f"{what}: the damage was not noticed although the hash is known")
    return what, "read"


def check_sources(folder: Path) -> None:
    """Raise unless everything is read while it is whole: what is refused anyway would show nothing."""
    for name, content in pictures().items():
        if name not in ("tiff float", "heic"):  # which not every version reads
            reading.read(content, name=name)
    for files in checkpoints().values():
        place = folder / "whole"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        for name, content in files.items():
            (place / name).write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load_model(place if CONFIG in files else place / next(iter(files)))


def _ways(kind: str) -> tuple[Callable[[bytes, random.Random], bytes], ...]:
    return (*EVERYWHERE, *(plant_code if kind.startswith("pth") else lie_in_header,) * 3)


def plant_code(content: bytes, dice: random.Random) -> bytes:
    """The pickle of the weights calls the shell before it goes on as usual."""
    place = os.environ["TMPDIR"]
    call = dice.choice(
        (b"cos\nsystem\n(S'touch %s/executed'\ntR0", b'cbuiltins\neval\n(S\'open("%s/executed", "w")\'\ntR0')
    )
    call %= place.encode()
    if not content.startswith(b"PK"):
        return content[:2] + call + content[2:]
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(buffer, "w") as hostile:
        for name in archive.namelist():
            entry = archive.read(name)
            hostile.writestr(name, entry[:2] + call + entry[2:] if name.endswith(".pkl") else entry)
    return buffer.getvalue()


def lie_in_header(content: bytes, dice: random.Random) -> bytes:
    """The header of a safetensors file says something else about one tensor."""
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    entry = header[dice.choice([key for key in header if key != "__metadata__"])]
    field = dice.choice(("shape", "dtype", "data_offsets"))
    entry[field] = _odd_value(dice) if dice.randrange(3) else _odd_like(entry[field], dice)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def damage_config(content: bytes, dice: random.Random) -> bytes:
    """A config.json with another value somewhere, or damaged as text."""
    if not dice.randrange(3):
        return dice.choice(EVERYWHERE)(content, dice)
    config = copy.deepcopy(json.loads(content))
    place = config
    while True:
        key = dice.choice(sorted(place))
        if not isinstance(place[key], dict) or not dice.randrange(3):
            break
        place = place[key]
    place[key] = _odd_value(dice) if dice.randrange(2) else _odd_like(place[key], dice)
    return json.dumps(config).encode()


def _odd_value(dice: random.Random) -> Any:
    values = (None, True, -1, 0, 10**9, 10**400, 1e308, -1e-320, float("nan"), float("inf"), "", "F32", "x" * 10_000,
              [], {}, [0, 4], [2**62, 2**62], [-1], [[[]]], {"a": {}})  # fmt: skip
    return copy.deepcopy(dice.choice(values))


def _odd_like(value: Any, dice: random.Random) -> Any:
    """A value of the same kind, but wrong."""
    if isinstance(value, list):
        return [_odd_like(one, dice) if dice.randrange(2) else one for one in value]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return dice.choice((value + 1, value * 2, value * 1000, -value, value // 2 if value else 7))
    return value[::-1] if isinstance(value, str) else _odd_value(dice)
