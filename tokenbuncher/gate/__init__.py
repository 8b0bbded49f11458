"""The gate: all evidence in, one verdict and its report out.

verdict = gate(spec, evidence, registration, out)
"""

from tokenbuncher.gate.gate import gate

__all__ = ["gate"]
