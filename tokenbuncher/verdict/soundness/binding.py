"""Whether evidence is about this release at all."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from tokenbuncher.core.version import __version__
from tokenbuncher.evidence import Evidence, Registration
from tokenbuncher.settings import ReleaseSpec

CLOCK_SKEW = timedelta(minutes=5)


def binding_problems(
    evidence: Evidence, spec: ReleaseSpec, registration: Registration, *, now: datetime
) -> Iterator[str]:
    """Evidence must be about this spec and this registered version, and made by this version of the tool."""
    if evidence.spec != spec.evidence_digest():
        yield f"was measured under spec {evidence.spec[:12]}, not this one ({spec.evidence_digest()[:12]})"
    if evidence.candidate != registration.digest:
        yield f"is about candidate {evidence.candidate[:12]}, not the registered {registration.digest[:12]}"
    if evidence.tool_version != __version__:
        yield f"was made by tokenbuncher {evidence.tool_version}, not {__version__}"
    if evidence.created.tzinfo is None:
        yield f"says it was created at {evidence.created.isoformat()}, without a time zone"
    elif evidence.created > now + CLOCK_SKEW:
        yield f"says it was created at {evidence.created.isoformat()}, in the future"
    elif evidence.created < now - timedelta(days=spec.policy.valid_days):
        yield f"is stale: created {evidence.created:%Y-%m-%d}, more than {spec.policy.valid_days} days ago"
