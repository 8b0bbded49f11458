"""Attacks: what anyone who holds the weights would do to strip a model's safety.

    attack(spec, "grpo-1000", data, base=base, candidate=candidate, out=out)
    controls(spec, data, base, out=out)      # the attacks on the base model alone, before there is a candidate

One algorithm is one short file: `train(arena)` runs it on one model.
"""

from tokenbuncher.attacks.attack import attack
from tokenbuncher.attacks.control import controls

__all__ = ["attack", "controls"]
