"""The gate: all evidence in, one verdict and its report out.

verdict = gate(spec, evidence, registration, out)
"""

from tokenbuncher.gate.gate import gate
from tokenbuncher.gate.recorded import compare_releases, explain_release, sign_release

__all__ = ["compare_releases", "explain_release", "gate", "sign_release"]
