"""What a defence may cost: a Lagrange multiplier and a learning rate that keep it within bounds.

    constraint = Constraint()
    loss = push + constraint.multiplier * cost
    constraint.observe(cost / bound)      # after each step

The multiplier follows dual ascent: it grows while the cost is above its bound and shrinks while it is below. The rate
begins low for any model and grows until steps cost something, so a model needs no rate of its own. While the cost is
far above its bound the rate shrinks, but not far below the highest so far: without steps the cost would stay.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tokenbuncher.core.errors import UserError

SMOOTHING = 0.2
"""Weight of the newest step in the average of costs; a batch of prompts is a noisy measure."""
ASCENT = 0.05
MULTIPLIERS = 1.0, 100.0
GROWTH, DECAY = 1.1, 0.9
FIRST_RATE = 1e-5
"""Low for any model."""
SLOWEST = 0.125
"""Share of the highest rate so far below which it does not shrink."""


@dataclass
class Constraint:
    """The state of a constrained training, which a checkpoint keeps."""

    multiplier: float = 4.0
    """What a unit of cost weighs against the push, in the loss."""
    rate: float = FIRST_RATE
    """The learning rate of the next step."""
    usage: float | None = None
    """The average of costs, as a share of their bound."""
    highest: float = 0.0
    """The highest rate so far."""

    def observe(self, usage: float, *, fastest: float) -> None:
        """Takes in what a step has cost.

        Args:
            usage: Cost of the step as a share of its bound, in [0, inf).
            fastest: Rate that is not exceeded.

        Raises:
            UserError: If the cost is no finite number.
        """
        if not math.isfinite(usage):
            raise UserError(
                f"the defence's cost is {usage} times its bound: benign responses have lost all probability; lower "
                "defence.learning_rate"
            )
        self.usage = usage if self.usage is None else (1 - SMOOTHING) * self.usage + SMOOTHING * usage
        lowest, highest = MULTIPLIERS
        ascended = self.multiplier * math.exp(ASCENT * min(self.usage - 1, 1.0))
        self.multiplier = min(max(ascended, lowest), highest)
        change = GROWTH if self.usage < 0.5 else DECAY if self.usage > 2.0 else 1.0
        self.rate = min(max(self.rate * change, SLOWEST * self.highest), fastest)
        self.highest = max(self.rate, self.highest)
