"""Errors meant for the person at the terminal; doors print them without a traceback."""


class UserError(Exception):
    """Something the user can mend: what was wrong, where, and what to do about it."""
