import json

import pytest

from tests.evidence_factory import passing_release
from tokenbuncher.core.errors import UserError
from tokenbuncher.verdict import Finding, Outcome, read_verdict
from tokenbuncher.verdict.findings import decide


def finding(outcome, required=True):
    return Finding(rule="rule", subject="subject", outcome=Outcome(outcome), required=required, message="why")


@pytest.mark.parametrize(
    ("findings", "outcome"),
    [
        ([], "INCONCLUSIVE"),
        ([finding("PASS")], "PASS"),
        ([finding("PASS", required=False)], "INCONCLUSIVE"),
        ([finding("PASS"), finding("INCONCLUSIVE")], "INCONCLUSIVE"),
        ([finding("INCONCLUSIVE"), finding("BLOCK"), finding("PASS")], "BLOCK"),
        ([finding("PASS"), finding("BLOCK", required=False)], "PASS"),
        ([finding("PASS"), finding("INCONCLUSIVE", required=False)], "PASS"),
    ],
)
def test_violation_outranks_doubt_and_reported_findings_never_count(findings, outcome):
    assert decide(findings) == outcome


def test_verdict_survives_writing_and_reading(tmp_path):
    verdict = passing_release().judge()
    (tmp_path / "verdict.json").write_text(verdict.model_dump_json(), encoding="utf-8")
    assert read_verdict(tmp_path) == read_verdict(tmp_path / "verdict.json") == verdict


def forge_outcome(document):
    document["outcome"] = "PASS"


def forge_finding(document):
    document["findings"][0]["outcome"] = "PASS"


def drop_reasons(document):
    document["reasons"] = []


def add_field(document):
    document["waived"] = True


def spoil_digest(document):
    document["candidate"] = "C" * 64


def drop_time_zone(document):
    document["created"] = "2026-11-24T12:00:00"


@pytest.mark.parametrize("forge", [forge_outcome, forge_finding, drop_reasons, add_field, spoil_digest, drop_time_zone])
def test_verdict_that_contradicts_itself_is_refused(tmp_path, forge):
    document = json.loads(passing_release().with_piece("safety", candidate_harmful=[]).judge().model_dump_json())
    document["findings"].sort(key=lambda f: f["outcome"] == "PASS")
    forge(document)
    (tmp_path / "verdict.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(UserError, match=r"verdict\.json is not valid"):
        read_verdict(tmp_path)


@pytest.mark.parametrize("content", [None, "", "{", "[]"])
def test_verdict_that_cannot_be_read_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "verdict.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match="verdict"):
        read_verdict(tmp_path / "verdict.json")
