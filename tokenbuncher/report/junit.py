"""The verdict for a CI/CD system, as JUnit XML."""

from __future__ import annotations

import json
import re
from typing import Any
from xml.etree import ElementTree

from tokenbuncher.settings.policy import PolicySpec, laxer
from tokenbuncher.verdict import Finding, Outcome, Verdict, headline

_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(policy: PolicySpec, verdict: Verdict) -> str:
    """The verdict as JUnit XML: a test case for each finding, and one for the verdict itself.

    A violation is a failure, a doubt an error; what is waived or only reported is skipped, with its message. The
    policy's fields are properties of the suite.

    Args:
        policy: The policy that the release was judged by.
        verdict: The verdict.
    """
    told = headline(policy, verdict.outcome, verdict)
    suite = ElementTree.Element(
        "testsuite", name=_clean(f"tokenbuncher gate: {told}: {verdict.name} version {verdict.version}")
    )
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in _told(policy, verdict).items():
        ElementTree.SubElement(properties, "property", name=name, value=_clean(json.dumps(value)))
    _case(suite, "verdict", verdict.name, outcome=verdict.outcome, message="; ".join(verdict.reasons), counts=True)
    for finding in verdict.findings:
        _case(
            suite,
            finding.rule,
            finding.subject,
            outcome=finding.outcome,
            message=_message(finding),
            counts=finding.decides,
        )
    for kind in ("failure", "error", "skipped"):
        plural = {"failure": "failures", "error": "errors", "skipped": "skipped"}[kind]
        suite.set(plural, str(len(suite.findall(f"testcase/{kind}"))))
    suite.set("tests", str(len(suite.findall("testcase"))))
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _told(policy: PolicySpec, verdict: Verdict) -> dict[str, Any]:
    fields = {f"policy.{name}": value for name, value in policy.model_dump(mode="json").items()}
    return {"laxer than research": laxer(policy), "tries": verdict.tries, **fields}


def _case(suite: ElementTree.Element, rule: str, subject: str, *, outcome: Outcome, message: str, counts: bool) -> None:
    case = ElementTree.SubElement(suite, "testcase", classname=_clean(rule), name=_clean(subject))
    if outcome is Outcome.PASS:
        return
    kind = {Outcome.BLOCK: "failure", Outcome.INCONCLUSIVE: "error"}[outcome] if counts else "skipped"
    ElementTree.SubElement(case, kind, message=_clean(message))


def _message(finding: Finding) -> str:
    return f"{finding.message} {finding.waiver}." if finding.waiver else finding.message


def _clean(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
