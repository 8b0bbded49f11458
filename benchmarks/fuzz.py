"""Feeds every kind of file that is read with inputs that nobody meant to write, and prints a table of what came of it.

    .venv/bin/python benchmarks/fuzz.py [--inputs 100000] [--only spec policy] [--release runs/organism]

The inputs and what must hold of them are those of tests/fuzz. An input fails if it ends in anything but a refusal in
words, makes a PASS that is none, or takes more than 2 s of processor time or 2 GiB of memory; it is shown on stderr.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from tokenbuncher.core.environment import quiet_libraries
from tokenbuncher.storage.tracking import QUIET

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.evidence_factory import piece_name  # noqa: E402
from tests.fuzz.kind import MOST_SECONDS, Kind, Opened, timed  # noqa: E402
from tests.fuzz.kinds import KINDS  # noqa: E402
from tests.fuzz.releases import evidence, recorded  # noqa: E402

BATCH = 10_000
GIVE_UP_SECONDS = 60
SPARE_BYTES = 2 * 2**30
SHOWN = 10_000


def main() -> None:
    """Runs the kinds one after the other; exit status 1 if an input failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1000, help="of each kind; default: %(default)s")
    parser.add_argument("--minutes", type=float, default=60, help="of each kind at most; default: %(default)g")
    parser.add_argument("--only", nargs="+", choices=KINDS, metavar="KIND", help=f"of: {', '.join(KINDS)}")
    parser.add_argument("--release", type=Path, help="folder of a run that passed, whose evidence is fuzzed instead")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    arguments = parser.parse_args()
    quiet_libraries()
    os.environ.update(QUIET)
    signal.signal(signal.SIGALRM, give_up)
    print("| file | inputs | accepted | refused | slowest, ms | failures | seconds |\n|---|---|---|---|---|---|---|")
    kinds = {name: KINDS[name] for name in arguments.only or KINDS}
    if arguments.release:
        release = recorded(arguments.release)
        kinds = {f"evidence, {name}": evidence(name, release) for name in map(piece_name, release.evidence)}
    tallies = [fuzz(name, opened, arguments) for name, opened in kinds.items()]
    sys.exit(1 if any(tally.failures for tally in tallies) else 0)


@dataclass
class Tally:
    """What came of the inputs of a kind."""

    accepted: int = 0
    refused: int = 0
    slowest: float = 0.0
    failures: Counter[str] = field(default_factory=Counter)
    shortest: dict[str, int] = field(default_factory=dict)

    @property
    def inputs(self) -> int:
        """How many there were."""
        return self.accepted + self.refused + self.failures.total()

    def fail(self, failure: str, given: Any) -> None:
        """Counts a failure, and shows each input that leads to it and is shorter than the ones before."""
        self.failures[failure] += 1
        shown = repr(given)
        if failure not in self.shortest or len(shown) < self.shortest[failure]:
            self.shortest[failure] = len(shown)
            print(
                f"{failure}\n  {shown if len(shown) <= SHOWN else shown[:SHOWN] + '...'}", file=sys.stderr, flush=True
            )


class GivenUp(BaseException):
    """An input took much too long; no handler of errors stops it."""


def give_up(number: int, frame: FrameType | None) -> None:
    """Ends what hangs."""
    raise GivenUp


def fuzz(name: str, opened: Opened, arguments: argparse.Namespace) -> Tally:
    """Reads as many inputs of a kind as are wanted or there is time for, and prints a row."""
    tally, began, batch = Tally(), time.monotonic(), 0

    def goes_on() -> bool:
        return tally.inputs < arguments.inputs and time.monotonic() - began < 60 * arguments.minutes

    in_memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with (
        tempfile.TemporaryDirectory(dir=in_memory) as scratch,
        opened(Path(scratch)) as kind,
        little_memory(),
    ):
        while goes_on():

            @seed(arguments.seed + batch)
            @settings(
                max_examples=min(BATCH, arguments.inputs - tally.inputs),
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(kind.inputs)
            def read(given: Any) -> None:
                if goes_on():
                    read_one(kind, given, tally)

            read()
            batch += 1
    print(
        f"| {name} | {tally.inputs} | {tally.accepted} | {tally.refused} | {1000 * tally.slowest:.0f} | "
        f"{tally.failures.total()} | {time.monotonic() - began:.0f} |",
        flush=True,
    )
    return tally


@contextmanager
def little_memory() -> Iterator[None]:
    """No more memory than is used now, and some to spare."""
    used = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + SPARE_BYTES, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def read_one(kind: Kind, given: Any, tally: Tally) -> None:
    """Reads one input."""
    signal.alarm(GIVE_UP_SECONDS)
    try:
        accepted, seconds = timed(kind, given)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        tally.fail(where(error), given)
        return
    finally:
        signal.alarm(0)
    tally.slowest = max(tally.slowest, seconds)
    if seconds > MOST_SECONDS:
        tally.fail(f"more than {MOST_SECONDS:g} s", given)
    elif accepted:
        tally.accepted += 1
    else:
        tally.refused += 1


def where(error: BaseException) -> str:
    """An error without what the input has to do with it: its type and where in this repository it was raised."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).is_relative_to(ROOT)]
    own = [frame for frame in frames if ".venv" not in frame.filename]
    places = dict.fromkeys(f"{Path(frame.filename).relative_to(ROOT)}:{frame.lineno}" for frame in own[-4:])
    return f"{type(error).__name__} at {', '.join(places)}"


if __name__ == "__main__":
    main()
