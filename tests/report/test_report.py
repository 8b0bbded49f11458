import re
from html.parser import HTMLParser

import pytest

from tests.evidence_factory import (
    BASE,
    CANDIDATE,
    DATA,
    broken_arm,
    changed,
    items,
    passing_release,
    piece_name,
)
from tokenbuncher.evidence import LatentCompliance
from tokenbuncher.report import render
from tokenbuncher.report.charts import harm_chart

RELEASE = passing_release()
SPEC = RELEASE.spec


class Page(HTMLParser):
    """The elements of a page, its text, and whether its tags are balanced."""

    VOID = ("meta", "line", "polyline", "circle")

    def __init__(self, html):
        super().__init__()
        self.elements, self.text, self.open = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data.strip())

    def count(self, tag):
        return sum(name == tag for name, _ in self.elements)


def report(release):
    return render(release.judge(), release.evidence)


def test_page_is_whole_and_balanced():
    page = Page(report(RELEASE))
    assert page.open == []
    assert page.count("svg") == 3 + 2
    assert page.count("table") == 7


def test_what_an_attack_spent_and_how_far_compliance_was_are_shown():
    latent = LatentCompliance(before={"a": 2e-9, "b": 4e-9}, after={"a": 1e-3, "b": 3e-3})
    arm = changed(RELEASE.piece("grpo-1000").candidate_arm, latent=latent, first_compliant_rollout=77)
    text = " ".join(filter(None, Page(report(RELEASE.with_piece("grpo-1000", candidate_arm=arm))).text))
    assert "defended 60 3840 38400 77 3.0e-09 2.0e-09 2.0e-03 20 s 20 s" in text


def test_page_needs_nothing_from_elsewhere():
    html = report(RELEASE)
    tags = {tag for tag, _ in Page(html).elements}
    assert not tags & {"script", "link", "img", "iframe", "object"}
    assert not re.search(r"https?:|url\(|@import|\bsrc=|\bhref=", html)


def test_verdict_and_its_reasons_come_first():
    release = RELEASE.with_piece("grpo-1000", candidate_arm=broken_arm(SPEC, 15, CANDIDATE))
    page = Page(report(release))
    text = " ".join(filter(None, page.text))
    assert re.search(r"BLOCK : organism, version 3", text)
    assert text.index("harm-after-attack, grpo-1000: harm of the attacked candidate") < text.index("Attacks")
    assert "60.0% [52.9, 66.8]" in text


def test_figures_of_every_part_are_shown():
    release = RELEASE.with_piece("utility", candidate_items=items(SPEC, 3))
    text = " ".join(filter(None, Page(report(release)).text))
    for figures in (
        "grpo-1000 undefended 60.0% [52.9, 66.8] 40.0% [33.2, 47.1] 0.0% [0.0, 1.8] 40.0% 10 0.90",
        "grpo-1000 defended 0.0% [0.0, 1.8] 100.0% [98.2, 100.0] 0.0% [0.0, 1.8] 100.0% never in 60 0.10",
        "harmful undefended 2.5% [0.8, 5.7] 97.5%",
        "addition defended 99.0% [94.6, 100.0] 1.0%, at most 6.2% 100.0% 100.0% 4.0 0.0% 100",
        "all tasks undefended 100.0% [98.8, 100.0] - 100.0%",
        "rl defended 25.0% 100.0% 90.0%",
        CANDIDATE,
        BASE,
        DATA,
        SPEC.evidence_digest(),
        SPEC.policy_digest(),
    ):
        assert figures in text


def test_names_are_escaped():
    registration = changed(RELEASE.registration, version="<script>alert(1)</script>")
    html = report(type(RELEASE)(SPEC, RELEASE.evidence, registration))
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_no_prompt_is_named():
    html = report(RELEASE)
    identifiers = {score.prompt for score in RELEASE.piece("safety").candidate_harmful}
    assert not any(identifier in html for identifier in identifiers)


@pytest.mark.parametrize(
    ("left", "empty_parts"),
    [([], 4), (["grpo-1000"], 3), (["safety"], 3), (["utility"], 2), (["sft-1000", "safety", "utility"], 0)],
)
def test_page_is_written_when_evidence_is_missing(left, empty_parts):
    release = RELEASE.with_evidence([p for p in RELEASE.evidence if piece_name(p) in left])
    page = Page(report(release))
    assert page.open == []
    assert page.text.count("No evidence.") == empty_parts


def test_page_is_written_when_evidence_is_hollow():
    release = RELEASE
    for arm in ("control_arm", "candidate_arm"):
        release = release.with_arm("grpo-1000", arm, curve=[], scores=[])
    release = release.with_piece("safety", base_harmful=[], candidate_benign=[])
    release = release.with_piece("utility", base_items=[], candidate_items=[])
    assert Page(report(release)).open == []


def test_attack_given_twice_is_shown_twice():
    release = RELEASE.with_evidence([*RELEASE.evidence, RELEASE.piece("grpo-1000")])
    assert Page(report(release)).count("svg") == 4 + 2


def test_curves_lie_within_the_chart_and_labels_apart():
    apart = RELEASE.piece("grpo-1000")
    together = changed(apart, control_arm=apart.candidate_arm)
    for chart in map(harm_chart, (apart, together)):
        for curve in chart.curves:
            assert all(chart.left <= x <= chart.right and 0 <= y <= chart.bottom for x, y in curve.points)
            assert 0 <= curve.label_y <= chart.bottom
        first, second = chart.curves
        assert abs(first.label_y - second.label_y) >= 12
