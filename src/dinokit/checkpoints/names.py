"""Names that strangers gave, of files and of models, as text that a page, a terminal and a table can hold."""

import unicodedata


def printable(name: object) -> str:
    """`name` as text: bytes of a file name that are no UTF-8 become "?", control characters are dropped."""
    text = str(name).encode("utf-8", "replace").decode()
    return "".join(character for character in text if unicodedata.category(character) != "Cc")
