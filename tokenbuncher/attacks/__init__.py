"""Attacks: what anyone who holds the weights would do to strip a model's safety.

    attack(spec, "grpo-1000", data, base, candidate, out)

One algorithm is one short file: `train(arena)` runs it on one model.
"""

from tokenbuncher.attacks.attack import attack

__all__ = ["attack"]
