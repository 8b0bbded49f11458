"""Progress of long work: step of steps, rate, time left and how it stands, every few seconds."""

from __future__ import annotations

import logging
import time

from tokenbuncher.core.log import PROGRESS, event

logger = logging.getLogger(__name__)


class Progress:
    """Logs every few seconds and at the end how far the work is."""

    def __init__(self, title: str, steps: int, every_seconds: float = 5.0, *, brief: bool = False) -> None:
        """
        Args:
            title: What is done.
            steps: How many steps it has.
            every_seconds: Time between two lines.
            brief: Nothing is told of work that is done before the first line is due.
        """
        self.title, self.steps, self.every, self.brief = title, steps, every_seconds, brief
        self.begin()

    def begin(self, done: int = 0) -> None:
        """Counts time from now, and steps beyond those that are done."""
        self.began = self.told = time.monotonic()
        self.first = done

    def step(self, done: int, **figures: float) -> None:
        """Tells that `done` steps are done, with figures to show."""
        now = time.monotonic()
        last = done >= self.steps and not (self.brief and self.told == self.began)
        if not last and now - self.told < self.every:
            return
        self.told = now
        rate = max(done - self.first, 1) / max(now - self.began, 1e-9)
        seconds_left = max(self.steps - done, 0) / rate
        left = f"{seconds_left:.0f} s left" if done < self.steps else f"{now - self.began:.0f} s"
        shown = "".join(f"  {name} {value:.4g}" for name, value in figures.items())
        steps = {"title": self.title, "done": done, "steps": self.steps}
        extra = event(PROGRESS, **steps, rate=rate, seconds_left=seconds_left, figures=figures)
        logger.info(f"{self.title}: {done}/{self.steps}  {rate:.1f}/s  {left}{shown}", extra=extra)
