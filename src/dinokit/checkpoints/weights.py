"""Reads a weights file as what it should be, tensors, however hostile the file is.

safetensors is checked by its own parser; a pickle goes through PyTorch's restricted unpickler, which knows tensors
and plain containers and refuses everything that is code. What a small file may unpack to is bounded: neither a
compressed archive, nor a tensor whose elements all lie in one place, nor a call for gigabytes makes the machine run
out of memory.
"""

from __future__ import annotations

import hashlib
import pickle
import pickletools
import re
import warnings
import zipfile
from bisect import bisect_left, insort
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from dinokit.errors import UserError, is_out_of_memory
from dinokit.images.kinds import explain_stand_in

PICKLES = (".pth", ".pt", ".bin", ".ckpt")
_SAFETENSORS = re.compile(rb".{5}\0\0\0\{", re.DOTALL)
"""How safetensors begin: the length of the header in eight bytes, low ones first, and its brace."""
_TORCH_STARTS = (b"PK\3\4", b"\x80")
"""Of the archives that PyTorch writes, and of pickles."""
_GROWTH = 10
"""How many times its own size a zipped pickle may unpack to (PyTorch itself stores without compression)."""
_SLACK = 16 << 20  # bytes
_NEEDED = re.compile(
    r"collections\.(OrderedDict|Counter)|builtins\.(set|complex)|torch\.((cuda\.)?\w+Storage|Size|device|[a-z]\w+)"
    r"|torch\._utils\._rebuild_(?!qtensor)\w+|torch\._tensor\._rebuild_from_type_v2|torch\.nn\.parameter\.Parameter"
    r"|torch\.serialization\._get_layout"
)
"""What a pickle of weights may name. PyTorch's own list also has `bytearray` and others that allocate what they are
told."""
_FORMATS = (torch.float32, torch.bfloat16, torch.float16)
"""Formats that weights keep."""
_PIECE = 1 << 22
"""Numbers that are looked at together."""
_LEGACY_PICKLES = 5
"""Pickles that a file of PyTorch before 1.6 begins with; numbers follow."""


def read_tensors(path: Path) -> Any:
    """The content of a weights file on the CPU: tensors, possibly nested in dicts. `UserError` for anything else.

    The file is mapped into memory, not read, wherever its format allows it: all but old and compressed pickles.
    """
    if path.suffix != ".safetensors" and path.suffix not in PICKLES:
        known = f".safetensors or {', '.join(PICKLES)}"
        raise UserError(f"{path} is not a weights file", f"its name must end in {known}")
    head = _read_head(path)
    try:
        if _SAFETENSORS.match(head):
            return load_file(path)
        mapped = _check_pickle(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on old pickles: they load or they do not
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except UserError:
        raise
    except pickle.UnpicklingError as problem:
        raise UserError(_describe(path, problem), "it is refused: only plain weights are loaded") from None
    except (EOFError, ValueError, zipfile.BadZipFile):
        raise UserError(f"{path} is damaged or cut off", "copy or download it again") from None
    except Exception as problem:  # parsers raise anything on hostile bytes
        if is_out_of_memory(problem):
            raise UserError(f"{path} does not fit into memory", "take a smaller model or a larger machine") from None
        first = next(iter(str(problem).strip().splitlines()), "")[:120] or type(problem).__name__
        raise UserError(f"{path} cannot be read ({first})", "the file is damaged or not a checkpoint") from None


def _read_head(path: Path) -> bytes:
    """The first bytes; `UserError` if they are not those of weights, whatever the name says."""
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError as problem:
        raise UserError(f"{path} cannot be read ({problem.strerror})", "check the file") from None
    stand_in = explain_stand_in(head)
    if stand_in is not None:
        raise UserError(f"{path} {stand_in.reason}", stand_in.hint)
    if not _SAFETENSORS.match(head) and not head.startswith(_TORCH_STARTS):
        raise UserError(f"{path} is neither safetensors nor a torch checkpoint", "give a file with a network's weights")
    return head


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content in hexadecimal; `UserError` if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as problem:
        raise UserError(f"{path} cannot be read ({problem.strerror})", "check the file") from None


def plain_weights(state: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The same weights, each dense, finite and apart from the others, in its own number format or float32.

    What lies in a mapped file stays there. Raises `UserError` naming the key of the first that is no weight: no
    floats, sparse, without data, larger than the memory behind it, infinite or not a number.
    """
    taken: list[tuple[int, int]] = []
    plain = {}
    for key, value in state.items():
        check_weight(key, value, where)
        own = value.detach()
        own = (own if own.dtype in _FORMATS else own.to(torch.float32)).contiguous()
        place = (own.data_ptr(), own.data_ptr() + own.nbytes)
        if any(start < place[1] and place[0] < end for start, end in _neighbours(taken, place)):
            own = own.clone()
        elif own.nbytes:
            insort(taken, place)
        if not _is_finite(own):
            raise UserError(f"{where}: {key} holds numbers that are not finite", "the training that made it diverged")
        plain[key] = own
    return plain


def _neighbours(taken: list[tuple[int, int]], place: tuple[int, int]) -> list[tuple[int, int]]:
    """The stretches of memory before and after `place`; none of `taken` overlap each other."""
    index = bisect_left(taken, place)
    return taken[max(index - 1, 0) : index + 1]


def _is_finite(value: Tensor) -> bool:
    """Looked at piece by piece: a mask of the whole would be half as large as the weights."""
    return all(bool(piece.isfinite().all()) for piece in value.flatten().split(_PIECE))


def check_weight(key: str, value: Tensor, where: str) -> None:
    """Raise `UserError` naming the key of a tensor that cannot be a weight; its numbers are not looked at."""
    if not value.is_floating_point():
        kind = str(value.dtype).removeprefix("torch.")
        raise UserError(
            f"{where}: {key} holds {kind} numbers, not floats", "the file holds something else than weights"
        )
    fault = _fault(value)
    if fault:
        raise UserError(f"{where}: {key} {fault}", "the file is damaged or not a checkpoint")


def _fault(value: Tensor) -> str:
    """Why a tensor cannot be a weight, or nothing."""
    if value.layout != torch.strided or value.is_nested:
        return f"is {value.layout} of {value.dtype}, not a dense array of floats".replace("torch.", "")
    if value.device.type != "cpu":
        return "has no data"
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return "claims more elements than it has"
    return ""


def _check_pickle(path: Path) -> bool:
    """Refuse a pickle that names what weights do not need, or a zipped one that unpacks to far more than its size.

    Returns whether its numbers lie in the file as they are, so that it can be mapped.
    """
    with open(path, "rb") as file:
        if file.read(4) != b"PK\3\4":  # where PyTorch too sees no archive
            file.seek(0)
            for _ in range(_LEGACY_PICKLES):
                _check_names(file)
            return False
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        size = sum(entry.file_size for entry in entries)
        if size > _GROWTH * path.stat().st_size + _SLACK:
            raise UserError(f"{path} would unpack to {size >> 20} MiB", "it is refused: it is not a plain checkpoint")
        for entry in entries:
            if entry.filename.lower().endswith(".pkl"):
                with archive.open(entry) as pickled:
                    _check_names(pickled)
        return all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)


def _check_names(pickled: IO[bytes]) -> None:
    """Read one pickle, executing nothing. `UnpicklingError` for a name that weights do not need."""
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name in ("GLOBAL", "INST", "STACK_GLOBAL"):
            name = str(argument).replace(" ", ".")
            if not _NEEDED.fullmatch(name):
                raise pickle.UnpicklingError(f"GLOBAL {name}")


def _describe(path: Path, problem: pickle.UnpicklingError) -> str:
    """Say what the pickle carries, as far as the unpickler named it."""
    found = re.search(r"(?:GLOBAL|global:?)\s+(?:GLOBAL\s+)?([A-Za-z_]\w*(?:\.\w+)+)", str(problem))
    named = f" ({found[1]})" if found else ""
    return f"{path} carries code or objects, not only tensors{named}"
