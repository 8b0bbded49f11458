"""Whether a piece of evidence can be judged at all: bound to this release, complete, free of contradictions.

Each check yields what is wrong, in words; no words mean that the evidence is sound.
"""

from tokenbuncher.verdict.soundness.attacks import attack_problems
from tokenbuncher.verdict.soundness.binding import binding_problems
from tokenbuncher.verdict.soundness.safety import safety_problems, set_sizes
from tokenbuncher.verdict.soundness.utility import utility_problems

__all__ = ["attack_problems", "binding_problems", "safety_problems", "set_sizes", "utility_problems"]
