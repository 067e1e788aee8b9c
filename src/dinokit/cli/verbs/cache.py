"""`dinokit cache`: the features that are kept between commands."""

from typing import TYPE_CHECKING

from dinokit.cli.options import Json
from dinokit.cli.verb import OTHER, Verb

if TYPE_CHECKING:
    from dinokit.inference.cache import CacheInfo

VERB = Verb(
    "cache",
    OTHER,
    0,
    "Look at, or empty, the folder of features that heads learn from.",
    ("dinokit cache info", "dinokit cache clear"),
    "The folder is DINOKIT_CACHE, or dinokit in your cache folder. It holds at most 10 GiB, or what "
    "DINOKIT_CACHE_LIMIT says, such as 50G; what was not used for longest goes first.",
    (("info", "Tell where it is and how much it holds."), ("clear", "Remove all features.")),
)


def info(*, json: Json = False) -> None:
    """Tell where it is and how much it holds.

    Parameters
    ----------
    json
        Print one JSON object: folder, entries, bytes, limit.
    """
    from dinokit.inference.cache import FeatureCache

    _tell(FeatureCache().info(), "", json)


def clear(*, json: Json = False) -> None:
    """Remove all features.

    Parameters
    ----------
    json
        Print one JSON object about what was removed: folder, entries, bytes, limit.
    """
    from dinokit.inference.cache import FeatureCache

    _tell(FeatureCache().clear(), "removed: ", json)


def _tell(info: "CacheInfo", said: str, json: bool) -> None:
    from dinokit.cli.output import print_json, put
    from dinokit.inference.cache import in_words

    if json:
        print_json({"folder": str(info.folder), "entries": info.entries, "bytes": info.bytes, "limit": info.limit})
    else:
        size, limit = in_words(info.bytes), in_words(info.limit)
        put(f"{said}{info.entries:,} entries, {size} of at most {limit}, in {info.folder}")
