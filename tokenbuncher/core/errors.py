"""Errors meant for the person at the terminal; doors print them without a traceback."""

from tokenbuncher.core.passwords import without_passwords


class UserError(Exception):
    """An error that the user can fix. It says what is wrong, where, and what to do about it.

    What stands in a message may come from anywhere; whatever no file or terminal could take is written in escapes,
    and passwords in addresses are left out.
    """

    def __init__(self, message: str) -> None:
        super().__init__(without_passwords(message).encode(errors="backslashreplace").decode())
