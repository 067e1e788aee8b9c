"""Names that strangers gave, of files and of models, as text that a page, a terminal and a table can hold."""

import os
import re
import unicodedata

_BYTE = re.compile(r"\\x[0-9a-f]{2}")


def printable(name: object) -> str:
    """`name` as text: bytes of a file name that are no UTF-8 become "?", control characters are dropped."""
    text = str(name).encode("utf-8", "replace").decode()
    return "".join(character for character in text if unicodedata.category(character) != "Cc")


def lossless(name: str) -> str:
    """`name` itself where it is UTF-8, else with each byte that is not as `\\xNN` and each backslash doubled.

    No two names give one text: one that already looks so has its backslashes doubled too.
    """
    escaped = os.fsencode(name.replace("\\", r"\\")).decode("utf-8", "backslashreplace")
    return escaped if _BYTE.search(escaped) else name
