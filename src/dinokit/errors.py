"""The one exception that a person is shown: what is wrong, and what to do about it."""


class UserError(Exception):
    """Something a person did or gave that cannot work.

    `message` says what is wrong and names the file or option; `hint` says what to do.
    The command line prints both on one line and ends with exit code 2.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message}: {hint}" if hint else message)
        self.message = message
        self.hint = hint
