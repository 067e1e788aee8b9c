"""The one exception that a person is shown: what is wrong, and what to do about it."""

_MEMORY_MESSAGES = ("out of memory", "not enough memory", "can't allocate memory")


class UserError(Exception):
    """Something a person did or gave that cannot work.

    `message` says what is wrong and names the file or option; `hint` says what to do.
    The command line prints both on one line and ends with exit code 2.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message}: {hint}" if hint else message)
        self.message = message
        self.hint = hint


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory is full: Python's and torch's, which on CPUs is a plain RuntimeError."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(message in text for message in _MEMORY_MESSAGES)
