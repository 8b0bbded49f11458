"""The command `tokenbuncher`, and `python -m tokenbuncher`.

Python ends with 1 on an import that fails, and 1 is the status of a BLOCK; so what can fail is imported here.
"""

from __future__ import annotations

import sys

FAILED = 3


def main() -> None:
    """Runs the command line.

    Raises:
        SystemExit: With the command's status; see `tokenbuncher.core.exits`.
    """
    try:
        from tokenbuncher.core.environment import speak_utf8

        speak_utf8()
        from tokenbuncher.cli import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    except BaseException as error:
        print(f"error: tokenbuncher cannot start: {type(error).__name__}: {error}; install it anew", file=sys.stderr)
        sys.exit(FAILED)
    run(prog_name="tokenbuncher")


if __name__ == "__main__":
    main()
