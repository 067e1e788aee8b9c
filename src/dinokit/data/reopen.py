"""Opens a picture by the path that a table of embeddings has for it: a file, or SHARD.tar/MEMBER."""

from __future__ import annotations

from pathlib import Path

from dinokit.data.listing import is_shard
from dinokit.data.shards import MAX_IN_MEMORY
from dinokit.data.tar import index_tar
from dinokit.errors import UserError
from dinokit.images.kinds import Finding
from dinokit.images.read import ReadError, read_file


def reopen(path: str, folder: Path) -> bytes:
    """The bytes of the picture at `path`, which is relative to where the table was made: tried from here, then from
    `folder`, where the table lies. Raises `ReadError`.
    """
    for place in dict.fromkeys((Path(path), folder / path)):
        if place.is_file():
            return read_file(place, path)
        shard = next((above for above in place.parents if is_shard(above) and above.is_file()), None)
        if shard is not None:
            return _member(shard, place.relative_to(shard).as_posix(), path)
    raise ReadError(path, Finding("is not found", "search from the folder in which the pictures were embedded"))


def _member(shard: Path, member: str, path: str) -> bytes:
    try:
        found = index_tar(shard, lambda name: name.removeprefix("./") == member, MAX_IN_MEMORY).members
    except UserError as problem:
        raise ReadError(path, Finding(f"cannot be read ({problem.message})", "check the shard")) from None
    if not found:
        raise ReadError(path, Finding(f"is not in {shard}", "embed the pictures again"))
    return found[0].read(shard)
