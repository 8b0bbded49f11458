"""The gate: all evidence in, one verdict and its report out.

verdict = gate(spec, evidence, registration, out=out)
"""

from tokenbuncher.gate.gate import gate
from tokenbuncher.gate.recorded import compare_releases, explain_release, sign_release
from tokenbuncher.gate.unfinished import conclude, unfinished_figures

__all__ = ["compare_releases", "conclude", "explain_release", "gate", "sign_release", "unfinished_figures"]
