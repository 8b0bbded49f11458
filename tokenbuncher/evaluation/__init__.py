"""Measuring a model before any attack: safety and utility.

evaluate_safety(spec, data, base, candidate=candidate, out=out)
evaluate_utility(spec, data, base, candidate=candidate, out=out)
"""

from tokenbuncher.evaluation.safety import evaluate_safety
from tokenbuncher.evaluation.utility import evaluate_utility

__all__ = ["evaluate_safety", "evaluate_utility"]
