"""The forms of a report tell the same."""

import json

import pytest

from tests.evidence_factory import CANDIDATE, broken_arm, manifest, passing_release, release_spec
from tokenbuncher.report import broken_figures, documents, release_figures

SPEC = release_spec()
RELEASE = passing_release(SPEC).with_manifest(manifest(SPEC))
BROKEN = RELEASE.with_piece("grpo-1000", candidate_arm=broken_arm(SPEC, 15, CANDIDATE))


@pytest.mark.parametrize("release", [RELEASE, BROKEN, RELEASE.with_evidence([])], ids=["pass", "block", "inconclusive"])
def test_every_form_has_the_outcome_and_no_prompt(release):
    verdict = release.judge()
    found = documents(release_figures(SPEC, verdict, release.evidence))
    assert list(found) == ["report.html", "report.md", "report.json"]
    assert f"<h1>{verdict.outcome}<" in found["report.html"]
    assert f" {verdict.outcome}: organism version 3" in found["report.md"].splitlines()[0]
    assert json.loads(found["report.json"])["outcome"] == verdict.outcome
    identifiers = {score.prompt for score in RELEASE.piece("safety").candidate_harmful}
    assert not any(identifier in text for text in found.values() for identifier in identifiers)


def test_a_run_without_a_verdict_passes_in_no_form():
    found = documents(broken_figures(SPEC, RELEASE.evidence, ["stage register failed: no server"]))
    assert json.loads(found["report.json"])["verdict"] is None
    assert all("INCONCLUSIVE" in text for text in found.values())
    assert not any(">PASS" in text or "PASS:" in text or '"PASS"' in text for text in found.values())
