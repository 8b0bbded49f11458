"""The verdict for a CI/CD system, as JUnit XML."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from tokenbuncher.verdict import Finding, Outcome, Verdict

_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(verdict: Verdict) -> str:
    """The verdict as JUnit XML: a test case for each finding, and one for the verdict itself.

    A violation is a failure, a doubt an error; what is waived or only reported is skipped, with its message.
    """
    suite = ElementTree.Element(
        "testsuite", name=_clean(f"tokenbuncher gate: {verdict.name} version {verdict.version}")
    )
    _case(suite, "verdict", verdict.name, verdict.outcome, "; ".join(verdict.reasons), counts=True)
    for finding in verdict.findings:
        _case(suite, finding.rule, finding.subject, finding.outcome, _message(finding), finding.decides)
    for kind in ("failure", "error", "skipped"):
        plural = {"failure": "failures", "error": "errors", "skipped": "skipped"}[kind]
        suite.set(plural, str(len(suite.findall(f"testcase/{kind}"))))
    suite.set("tests", str(len(suite)))
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _case(suite: ElementTree.Element, rule: str, subject: str, outcome: Outcome, message: str, counts: bool) -> None:
    case = ElementTree.SubElement(suite, "testcase", classname=_clean(rule), name=_clean(subject))
    if outcome is Outcome.PASS:
        return
    kind = {Outcome.BLOCK: "failure", Outcome.INCONCLUSIVE: "error"}[outcome] if counts else "skipped"
    ElementTree.SubElement(case, kind, message=_clean(message))


def _message(finding: Finding) -> str:
    return f"{finding.message} {finding.waiver}." if finding.waiver else finding.message


def _clean(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
