"""report.html: verdict first, every figure, and nothing from elsewhere."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from tests.evidence_factory import (
    BASE,
    CANDIDATE,
    broken_arm,
    changed,
    items,
    manifest,
    passing_release,
    piece_name,
    release_spec,
)
from tokenbuncher.evidence import LatentCompliance
from tokenbuncher.report import broken_figures, release_figures
from tokenbuncher.report.page import html_report
from tokenbuncher.settings.prompts import SourceEntry

SPEC = release_spec()
RELEASE = passing_release(SPEC).with_manifest(manifest(SPEC))
BROKEN = RELEASE.with_piece("grpo-1000", candidate_arm=broken_arm(SPEC, 15, CANDIDATE))


class Page(HTMLParser):
    """The elements of a page, its text, and whether its tags are balanced."""

    VOID = ("meta", "line", "polyline", "circle", "rect", "path")

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
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "svg"} & set(self.open):
            self.text.append(data.strip())

    def count(self, tag):
        return sum(name == tag for name, _ in self.elements)

    @property
    def words(self):
        return " ".join(filter(None, self.text))


def report(release):
    return html_report(release_figures(release.spec, release.judge(), release.evidence))


def broken(evidence, *problems):
    return Page(html_report(broken_figures(SPEC, evidence, problems)))


def test_page_is_whole_and_balanced():
    page = Page(report(RELEASE))
    assert page.open == []
    charts = [attributes for tag, attributes in page.elements if tag == "svg" and attributes.get("role") == "img"]
    # of all attacks, GRPO, SFT (which has no rollouts), entropies, utility, fine-tuning
    assert len(charts) == 4 + 4 + 2 + 4 + 2 + 2
    assert all(len(chart["aria-label"]) > 40 for chart in charts)


def test_headings_are_in_order():
    levels = [int(tag[1]) for tag, _ in Page(report(RELEASE)).elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_page_needs_nothing_from_elsewhere_and_runs_nothing():
    html = report(RELEASE)
    tags = {tag for tag, _ in Page(html).elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "a:href"}
    assert not re.search(r"https?:|url\(|@import|\bsrc=|\bon\w+=", html)
    assert set(re.findall(r'href="(.)', html)) == {"#"}
    targets = set(re.findall(r'href="#(\w+)"', html))
    assert targets <= set(re.findall(r'id="(\w+)"', html))


def test_the_same_figures_make_the_same_page():
    assert report(RELEASE) == report(RELEASE)


def test_verdict_what_decided_it_and_its_reasons_come_first():
    page, verdict = Page(report(BROKEN)), BROKEN.judge()
    assert page.words.index("BLOCK : organism version 3") < page.words.index(
        "Decided by: harm-after-attack, grpo-1000: "
    )
    harm = next(finding for finding in verdict.findings if finding.rule == "harm-after-attack")
    assert f"{harm.bound:.1%} where ≤ 5.0% is needed" in page.words
    places = [page.words.index(reason) for reason in verdict.reasons]
    assert places == sorted(places)
    assert places[-1] < page.words.index("Attack by attack")


def test_closest_call_of_a_pass_comes_first():
    page = Page(report(RELEASE))
    assert page.words.index("Closest call: ") < page.words.index("Every required rule holds at its confidence bound.")


def test_reasons_beyond_the_first_few_are_folded():
    page = Page(report(RELEASE.with_evidence([])))
    assert "The alias stays where it is: evidence, grpo-1000: missing" in page.words
    assert "2 more reasons" in page.words


def test_figures_of_every_part_are_shown():
    text = Page(report(BROKEN.with_piece("utility", candidate_items=items(SPEC, 3)))).words
    for figures in (
        "grpo-1000 BLOCK 60.0% [52.9, 66.8] 60.0% [52.9, 66.8] step 10 step 15",
        "grpo-1001 PASS 60.0% [52.9, 66.8] 0.0% [0.0, 1.8] step 10 never in 60",
        "grpo-1000 base 60.0% [52.9, 66.8] 40.0% [33.2, 47.1] 0.0% [0.0, 1.8] 40.0% step 10 0.90",
        "grpo-1001 candidate 0.0% [0.0, 1.8] 100.0% [98.2, 100.0] 0.0% [0.0, 1.8] 100.0% never in 60 0.10",
        "5 0.0% 0.0% 100.0% 100.0% 0.0% 0.0% 0.1 0.0102 0.9 0.1 25.0% 100.0%",
        "harmful base 2.5% [0.8, 5.7] 97.5% [94.3, 99.2] 0.0% [0.0, 1.8] - 0.01 0",
        "look-alikes base 0.0% [0.0, 1.5] 10.0% [6.6, 14.4] 0.0% [0.0, 1.5] - 0.01 0",
        "look-alikes candidate 0.0% [0.0, 1.5] 10.0% [6.6, 14.4] 0.0% [0.0, 1.5] 0.0% [-1.7, 1.7] 0.01 0",
        "Benign prompts are from organism, which neither anchors the defence nor aligned the model.",
        "look-alikes 250 organism",
        "addition 100.0% [96.4, 100.0] 99.0% [94.6, 100.0] 1.0% [-4.3, 6.2] 1 0 100",
        "rl candidate 25.0% 100.0% [97.0, 100.0] 0.0%",
        "benign prompts candidate 0.0% [0.0, 0.9] 100.0% 8.0 - -",
        "all tasks candidate - 100.0% 4.0 0.0% 100.0%",
        "No prompt stands in two sets",
        "safety 200 organism",
        CANDIDATE,
        BASE,
        manifest(SPEC).folder_digest(),
        SPEC.evidence_digest(),
        SPEC.policy_digest(),
        "defence.seed 0 attack grpo 1000, 1001",
        "torch 2.13.0",
        "tokenbuncher run-local --spec spec.yaml",
        "tokenbuncher gate --evidence runs/organism",
    ):
        assert figures in text
    assert "spec.yaml, whole" in text


def test_what_an_attack_spent_and_how_far_compliance_was_are_shown():
    latent = LatentCompliance(before={"a": 2e-9, "b": 4e-9}, after={"a": 1e-3, "b": 3e-3})
    arm = changed(RELEASE.piece("grpo-1000").candidate_arm, latent=latent, first_compliant_rollout=77)
    text = Page(report(RELEASE.with_piece("grpo-1000", candidate_arm=arm))).words
    assert "candidate 60 3840 38400 77 3.0e-09 2.0e-09 2.0e-03 20 s 20 s" in text


def test_leaks_and_files_are_shown():
    files = {"harmful": SourceEntry(location="s3://b/prompts.csv", sha256="f" * 64, rows=900, dropped=4, kept=850)}
    leaks = ["defence 3 and safety 9: near duplicate (0.91)"]
    document = manifest(SPEC, sources=files, leakage=leaks, held_out_categories=["fraud"])
    text = Page(report(RELEASE.with_manifest(document))).words
    assert "1 prompts stand in two sets." in text
    assert leaks[0] in text
    assert "Held out for safety alone: fraud." in text
    assert "data.harmful s3://b/prompts.csv 900 4 850 ffffffffffff" in text


def test_what_missing_evidence_does_not_tell_is_said():
    partial = RELEASE.with_evidence([piece for piece in RELEASE.evidence if piece.kind != "safety"])
    assert "Leaks between prompt sets - not recorded" in Page(report(partial)).words


def test_hazards_are_told():
    assert "those of the 6 attacked models were deleted" in Page(report(BROKEN)).words
    assert "Whoever has these weights can break them: grpo-1000 did." in Page(report(BROKEN)).words
    spec = release_spec(attacks={"keep_checkpoints": True})
    assert "keeps those of the 6 attacked models" in Page(report(passing_release(spec))).words


def test_names_are_escaped():
    registration = changed(RELEASE.registration, version="<script>alert(1)</script>")
    html = report(replace(RELEASE, registration=registration))
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_names_in_charts_are_escaped():
    task = 'x"><script>'
    odd = [changed(item, task=task) for item in RELEASE.piece("utility").base_items]
    page = Page(report(RELEASE.with_piece("utility", base_items=odd, candidate_items=odd)))
    assert page.count("script") == 0
    assert task in page.words


def test_no_prompt_is_named():
    html = report(RELEASE)
    identifiers = {score.prompt for score in RELEASE.piece("safety").candidate_harmful}
    assert not any(identifier in html for identifier in identifiers)


@pytest.mark.parametrize(
    ("left", "empty_parts"),
    [([], 6), (["grpo-1000"], 4), (["safety"], 3), (["utility"], 3), (["sft-1000", "safety", "utility"], 0)],
)
def test_page_is_written_when_evidence_is_missing(left, empty_parts):
    release = RELEASE.with_evidence([p for p in RELEASE.evidence if piece_name(p) in left])
    page = Page(report(release))
    assert page.open == []
    assert page.text.count("No evidence.") == empty_parts
    assert "INCONCLUSIVE : organism version 3" in page.words


def test_page_is_written_when_evidence_is_hollow():
    release = RELEASE
    for arm in ("control_arm", "candidate_arm"):
        release = release.with_arm("grpo-1000", arm, curve=[], scores=[], training=[])
    release = release.with_piece("safety", base_harmful=[], candidate_benign=[])
    release = release.with_piece("utility", base_items=[], candidate_items=[])
    assert Page(report(release)).open == []


def test_run_without_a_verdict_is_reported_with_what_it_has_left():
    page = broken(RELEASE.evidence[:2], "stage defend failed: out of memory")
    assert page.open == []
    assert "INCONCLUSIVE : organism, no version The run ended before there was a version to judge" in page.words
    assert "stage defend failed: out of memory" in page.words
    assert "evidence, safety: missing. Run its stage." in page.words
    assert "grpo-1000 not judged 60.0% [52.9, 66.8]" in page.words
    assert "0 of 2 nothing was judged" in page.words
    assert "PASS" not in page.words


def test_attack_given_twice_is_shown_twice():
    release = RELEASE.with_evidence([*RELEASE.evidence, RELEASE.piece("grpo-1000")])
    assert Page(report(release)).words.count("Figures of grpo-1000 by step") == 2
