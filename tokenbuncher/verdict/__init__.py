"""The verdict algebra: pure, and it fails closed.

verdict = judge_release(spec, evidence, registration)
verdict.outcome     # PASS, BLOCK or INCONCLUSIVE
verdict.reasons     # why it is not PASS
"""

from tokenbuncher.verdict.findings import FILE_NAME, Finding, Outcome, Verdict, read_verdict
from tokenbuncher.verdict.headline import headline
from tokenbuncher.verdict.judge import AnyPiece, judge_release

__all__ = ["FILE_NAME", "AnyPiece", "Finding", "Outcome", "Verdict", "headline", "judge_release", "read_verdict"]
