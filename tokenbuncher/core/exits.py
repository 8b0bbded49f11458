"""Exit statuses: 1 says BLOCK and nothing else, so an error that nobody expected must not end with Python's own 1."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from tokenbuncher.core.errors import UserError
from tokenbuncher.core.passwords import without_passwords

REFUSED = 2
"""Wrong usage, or an error that the user can mend; also INCONCLUSIVE."""
FAILED = 3
"""An error that nobody expected, or output that nobody takes."""
INTERRUPTED = 130


@contextmanager
def exiting() -> Iterator[None]:
    """Runs the block of a program; whatever it raises ends the process with the status that says so.

    Raises:
        SystemExit: If the block raises anything.
    """
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(REFUSED) from None
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except Exception:
        fail_unexpectedly()


def fail_unexpectedly() -> NoReturn:
    """Ends the process because of the exception at hand, whose traceback is printed.

    Raises:
        SystemExit: Always.
    """
    with suppress(Exception):  # the error may be that nothing can be printed
        print_traceback()
    raise SystemExit(FAILED) from None


def print_traceback() -> None:
    """Prints the traceback of the exception at hand, without the passwords of addresses in it."""
    print(without_passwords(traceback.format_exc()), end="", file=sys.stderr)


def flush_output() -> None:
    """Brings out what was printed; Python would end with a status of its own if it found at the end that it cannot.

    Raises:
        SystemExit: If nobody takes it, or it cannot be written.
    """
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        fail_unexpectedly()
