"""Prompt sets: defence, attack, safety, benign, utility and tuning, disjoint and checked for leaks.

prepare_data(spec, out)
"""

from tokenbuncher.inputs.prepare import prepare_data

__all__ = ["prepare_data"]
