"""Weights from the Hugging Face Hub and from web addresses, through huggingface_hub: cache, token, resume, offline.

Its cache keeps what was downloaded once; `HF_HOME`, `HF_TOKEN`, `HF_ENDPOINT` and `HF_HUB_OFFLINE` mean what they mean
everywhere.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from dinokit.checkpoints.files import CONFIG, WEIGHTS_NAMES, read_json_object
from dinokit.checkpoints.folders import hold
from dinokit.checkpoints.layouts.meta import promised_hash
from dinokit.checkpoints.layouts.transformers import PROCESSOR
from dinokit.checkpoints.weights import PICKLES, file_sha256
from dinokit.errors import UserError

_LVD, _SAT = "-pretrain-lvd1689m", "-pretrain-sat493m"
REPOSITORIES = {
    "dinov3_vits16": f"facebook/dinov3-vits16{_LVD}",
    "dinov3_vits16plus": f"facebook/dinov3-vits16plus{_LVD}",
    "dinov3_vitb16": f"facebook/dinov3-vitb16{_LVD}",
    "dinov3_vitl16": f"facebook/dinov3-vitl16{_LVD}",
    "dinov3_vitl16_sat493m": f"facebook/dinov3-vitl16{_SAT}",
    "dinov3_vith16plus": f"facebook/dinov3-vith16plus{_LVD}",
    "dinov3_vit7b16": f"facebook/dinov3-vit7b16{_LVD}",
    "dinov3_vit7b16_sat493m": f"facebook/dinov3-vit7b16{_SAT}",
    "dinov3_convnext_tiny": f"facebook/dinov3-convnext-tiny{_LVD}",
    "dinov3_convnext_small": f"facebook/dinov3-convnext-small{_LVD}",
    "dinov3_convnext_base": f"facebook/dinov3-convnext-base{_LVD}",
    "dinov3_convnext_large": f"facebook/dinov3-convnext-large{_LVD}",
}
"""Catalogue name -> repository on the Hub."""
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}(@[\w./-]{1,100})?")
_HUB = "https://huggingface.co"
_OFFLINE = "connect this machine, or give the path of a downloaded folder"


def is_repository(text: str) -> bool:
    """Whether `text` can be the id of a repository: OWNER/NAME or OWNER/NAME@REVISION, and no file of weights."""
    return bool(_REPOSITORY.fullmatch(text)) and not text.endswith((".safetensors", *PICKLES))


def is_address(text: str) -> bool:
    """Whether `text` is a web address."""
    return text.startswith(("https://", "http://"))


def _library() -> ModuleType:
    try:
        import huggingface_hub.errors
    except ImportError:
        raise UserError("downloads need huggingface_hub", "pip install dinokit[hub]") from None
    return huggingface_hub


def fetch_repository(text: str) -> Path:
    """The folder with the model of the repository OWNER/NAME[@REVISION], downloaded unless it is in the cache.

    Raises `UserError` that says what to do where it is gated, unknown, out of reach or without weights.
    """
    _library()
    repository, _, revision = text.partition("@")
    _check_reach(repository, revision)
    config = _fetch(repository, revision, CONFIG)
    if config is None:
        raise UserError(f"the repository {repository} has no {CONFIG}", "it holds no model that dinokit reads")
    _fetch(repository, revision, PROCESSOR)
    for name in WEIGHTS_NAMES:
        found = _fetch(repository, revision, name)
        if found is None:
            continue
        if name.endswith(".json"):
            named = read_json_object(found).get("weight_map")
            for shard in sorted(set(named.values())) if isinstance(named, dict) else ():
                _fetch(repository, revision, str(shard))
        return found.parent
    raise UserError(f"the repository {repository} has no {WEIGHTS_NAMES[0]}", "give one with weights")


def _check_reach(repository: str, revision: str) -> None:
    """Raise `UserError` at once where the Hub cannot be reached: the library would try for half a minute."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    errors = _library().errors
    if isinstance(try_to_load_from_cache(repository, CONFIG, revision=revision or None), str):
        return
    try:
        get_hf_file_metadata(hf_hub_url(repository, CONFIG, revision=revision or None))
    except (errors.HfHubHTTPError, errors.EntryNotFoundError, errors.FileMetadataError) as problem:
        response = getattr(problem, "response", None)  # an answer, which is understood where the file is fetched
        if response is not None and response.status_code >= 500:
            raise UserError(f"the Hub answers with status {response.status_code}", "try again later") from None
    except (errors.HTTPError, OSError) as problem:
        raise _out_of_reach(repository, CONFIG, problem) from None


def _fetch(repository: str, revision: str, name: str) -> Path | None:
    """One file of a repository; None where it has no such file."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    errors = _library().errors
    cached = try_to_load_from_cache(repository, name, revision=revision or None)
    if cached is not None and not isinstance(cached, str):
        return None  # known not to exist
    try:
        return Path(hf_hub_download(repository, name, revision=revision or None))
    except errors.GatedRepoError:
        hint = f"accept the licence at {_HUB}/{repository}, then `hf auth login` with the token of that account"
        raise UserError(f"{repository} is gated", hint) from None
    except errors.RepositoryNotFoundError:
        hint = "check the name; if it is private or gated, accept its licence on the page and `hf auth login`"
        raise UserError(f"{repository} is no folder here, and no repository on the Hub", hint) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{repository} has no revision {revision!r}", "leave out @REVISION for the newest") from None
    except errors.LocalEntryNotFoundError as problem:
        raise _out_of_reach(repository, name, problem) from None
    except errors.EntryNotFoundError:
        return None
    except (errors.HTTPError, errors.HFValidationError, OSError) as problem:
        raise UserError(f"{name} of {repository} cannot be downloaded ({_first_line(problem)})", "try again") from None


def _out_of_reach(repository: str, name: str, problem: Exception) -> UserError:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        what = f"{name} of {repository} is not in the cache, and HF_HUB_OFFLINE is set"
        return UserError(what, "unset it to download, or give the path of a downloaded folder")
    why = _first_line(problem.__cause__ or problem)
    return UserError(f"{repository} is no folder here, and the Hub cannot be reached ({why})", _OFFLINE)


def _first_line(problem: BaseException) -> str:
    lines = str(problem).strip().splitlines()
    return lines[0][:120] if lines else type(problem).__name__


def fetch_address(url: str) -> Path:
    """The weights file at a web address, downloaded once; a download that broke off goes on where it stopped.

    Where the name of the file promises the beginning of its SHA-256, that is checked. Raises `UserError`.
    """
    name = unquote(urlsplit(url).path).rpartition("/")[2]
    if not name.endswith((".safetensors", *PICKLES)) or len(name) > 200:
        known = f".safetensors or {', '.join(PICKLES)}"
        raise UserError(f"{url[:200]} names no weights file", f"its name must end in {known}")
    library = _library()
    folder = Path(library.constants.HF_HOME) / "dinokit" / hashlib.sha256(url.encode()).hexdigest()[:16]
    target = folder / name
    if target.is_file():
        return target
    partial = folder / f"{name}.partial"
    with hold(folder, "downloading"):
        try:
            resumed = _download(url, partial)
            if resumed and not _is_promised(partial, name):  # the beginning was of another file
                partial.unlink()
                _download(url, partial)
            if not _is_promised(partial, name):
                partial.unlink()
                what = f"{url[:200]} does not have the hash {promised_hash(name)} that its name promises"
                raise UserError(what, "the server gives another file: take the address from Meta's mail again")
            os.replace(partial, target)
        except (OSError, library.errors.HTTPError) as problem:
            what = f"{name} cannot be downloaded ({_first_line(problem)})"
            raise UserError(what, "run it again: it goes on where it stopped") from None
    return target


def _is_promised(path: Path, name: str) -> bool:
    promised = promised_hash(name)
    return promised is None or file_sha256(path).startswith(promised)


def _download(url: str, partial: Path) -> bool:
    """Append what is missing in `partial`; whether there was something before."""
    from huggingface_hub import errors

    with open(partial, "ab") as file:
        before = file.tell()
        try:
            _get(url, file, before)
        except errors.HfHubHTTPError as problem:
            status = problem.response.status_code if problem.response is not None else 0
            if status == 416 and before:  # nothing is left to give: it is whole, or of another file
                file.truncate(0)
                _get(url, file, 0)
                return False
            raise _refused(url, status) from None
        except errors.OfflineModeIsEnabled:
            raise UserError(f"{url[:200]} is not downloaded yet, and HF_HUB_OFFLINE is set", "unset it") from None
    return before > 0


def _get(url: str, file: BinaryIO, before: int) -> None:
    from huggingface_hub.file_download import http_get

    arguments: dict[str, Any] = {"resume_size": before, "displayed_filename": Path(file.name).stem}
    http_get(url, file, **arguments)


def _refused(url: str, status: int) -> UserError:
    if status in (401, 403):
        return UserError(
            f"{url[:200]} is not given out ({status})", "the links in Meta's mail expire: ask for new ones"
        )
    return UserError(f"{url[:200]} cannot be downloaded (status {status})", "check the address")
