"""Progress of long work: step of steps, rate and time left, one line at a time."""

from __future__ import annotations

import time


class Progress:
    """Prints a line every few seconds and at the end; plain lines, so logs stay readable."""

    def __init__(self, title: str, steps: int, every_seconds: float = 5.0) -> None:
        self.title, self.steps, self.every = title, steps, every_seconds
        self.began = self.printed = time.monotonic()
        self.first: int | None = None

    def step(self, done: int, **figures: float) -> None:
        """Tells that `done` steps are done, with figures to show."""
        now = time.monotonic()
        if self.first is None:
            self.first = done - 1
        if done < self.steps and now - self.printed < self.every:
            return
        self.printed = now
        rate = (done - self.first) / max(now - self.began, 1e-9)
        shown = "".join(f"  {name} {value:.4g}" for name, value in figures.items())
        left = f"{(self.steps - done) / rate:.0f} s left" if done < self.steps else f"{now - self.began:.0f} s"
        print(f"{self.title}: {done}/{self.steps}  {rate:.1f}/s  {left}{shown}", flush=True)
