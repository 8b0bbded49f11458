"""Hardening a model against harmful RL fine-tuning.

defend(spec, data, base, out=out)
"""

from tokenbuncher.defence.defend import defend

__all__ = ["defend"]
