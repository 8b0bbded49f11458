"""A child process: its output, which is text and nothing else, and the events that it sends by a channel of its own."""

from __future__ import annotations

import os
import socket
import subprocess
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import IncrementalNewlineDecoder
from selectors import EVENT_READ, DefaultSelector
from typing import Any

from tokenbuncher.core.log import CHANNEL
from tokenbuncher.core.passwords import without_passwords
from tokenbuncher.core.stage import Event, read_event

CHUNK = 2**20
"""Bytes read at once; no message of a channel is longer."""


@dataclass
class Child:
    """A running child process."""

    process: subprocess.Popen[bytes]
    channel: socket.socket
    take: Callable[[str], object]
    """Takes the lines of its output, without the passwords of addresses."""
    last: str = ""
    """The last line that it has put out."""
    _rest: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Carriage returns end lines too: those of progress bars stand below each other in a log.
        self._decoder = IncrementalNewlineDecoder(getincrementaldecoder("utf-8")("replace"), translate=True)

    def events(self) -> Iterator[Event]:
        """Events as they come, until neither the child nor what it has started can send or put out any more."""
        assert self.process.stdout
        with DefaultSelector() as open_ends:
            for end in (self.channel, self.process.stdout):
                open_ends.register(end, EVENT_READ)
            while open_ends.get_map():
                for ready, _ in open_ends.select():
                    got = os.read(ready.fd, CHUNK)
                    if not got:
                        open_ends.unregister(ready.fileobj)
                    if ready.fileobj is self.process.stdout:
                        self._put_out(got)
                    elif event := read_event(got):
                        yield event

    def _put_out(self, got: bytes) -> None:
        """Hands on whole lines; nothing means that there are no more."""
        self._rest.append(self._decoder.decode(got, final=not got))
        if got and "\n" not in self._rest[-1]:
            return
        text = "".join(self._rest)
        *lines, rest = (text if got or not text else f"{text}\n").split("\n")
        self._rest = [rest]
        for line in map(without_passwords, lines):
            self.last = line.strip() or self.last
            self.take(f"{line}\n")


@contextmanager
def child(
    command: list[Any], take: Callable[[str], object], environment: Mapping[str, str], **options: Any
) -> Iterator[Child]:
    """Starts a child process; when the block ends, it is waited for.

    Args:
        command: Its command.
        take: Takes each line of its output, stderr included.
        environment: Variables that it has beside those of this process.
        **options: Further options of `subprocess.Popen`.
    """
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with its:
            process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[its.fileno()],
                env={**os.environ, **environment, CHANNEL: str(its.fileno())},
                **options,
            )
        with process:
            yield Child(process, ours, take)
