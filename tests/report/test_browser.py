"""The pages in a real browser: silent, offline, accessible, readable on a phone, in the dark and on paper."""

from __future__ import annotations

import pytest

from tests.evidence_factory import (
    CANDIDATE,
    broken_arm,
    defence_rows,
    items,
    manifest,
    passing_release,
    piece_name,
    release_spec,
)
from tests.report.conftest import NARROW, inaccessible, overflow
from tokenbuncher.evidence import Step
from tokenbuncher.report import broken_figures, compare_report, defence_figures, documents, release_figures
from tokenbuncher.settings import parse_spec

pytestmark = pytest.mark.browser

A4 = 695
"""Pixels between the margins."""

SPEC = release_spec()
PASSING = passing_release().with_manifest(manifest(SPEC))
BROKEN = PASSING.with_piece("grpo-1000", candidate_arm=broken_arm(SPEC, 15, CANDIDATE))
PARTIAL = PASSING.with_evidence([piece for piece in PASSING.evidence if piece_name(piece) in ("grpo-1000", "safety")])
HOLLOW = (
    PASSING.with_arm("grpo-1000", "candidate_arm", curve=[], scores=[], training=[])
    .with_piece("safety", base_harmful=[])
    .with_piece("utility", base_items=[])
)
MANY = passing_release(
    release_spec(
        attacks={
            "suite": [
                {"algorithm": algorithm, "seeds": [1000, 1001, 1002], "steps": 60}
                for algorithm in ("grpo", "rloo", "reinforce-pp", "ppo", "dpo", "entropy-seeking", "sft")
            ]
        }
    )
)


WENT_WRONG = {"held_out_escape_max": 1.0, "held_out_escaping": 0.25, "held_out_kl": 3.0}


def figures(release, defence=None):
    return release_figures(release.spec, release.judge(), release.evidence, defence=defence)


def report(release, defence=None):
    return documents(figures(release, defence))["report.html"]


def steps(**changes):
    return [Step(int(row.pop("step")), row) for row in defence_rows(**changes)]


PAGES = {
    "pass": report(PASSING),
    "block": report(BROKEN),
    "partial": report(PARTIAL),
    "hollow": report(HOLLOW),
    "many": report(MANY),
    "broken run": documents(broken_figures(SPEC, PARTIAL.evidence, ["stage evaluate-utility failed: no memory"]))[
        "report.html"
    ],
    "defence": report(PASSING, defence_figures(parse_spec("{}").defence, steps(**WENT_WRONG))),
    "nothing": documents(broken_figures(SPEC, [], ["stage fetch-model failed: no such model"]))["report.html"],
    "compare": compare_report(figures(PASSING), figures(BROKEN), ["runs/" + "long-" * 12, "runs/b"]),
    "compare unlike": compare_report(figures(PARTIAL), figures(MANY), ["runs/a", "runs/b"]),
}
every_page = pytest.mark.parametrize("html", PAGES.values(), ids=PAGES)


@every_page
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_is_silent_offline_and_accessible(html, scheme, opened):
    page = opened(html, color_scheme=scheme)
    for summary in page.locator("summary").all():
        summary.click()
    assert page.problems + inaccessible(page) + overflow(page) == []


@every_page
def test_page_is_readable_on_a_phone(html, opened):
    page = opened(html, width=NARROW)
    for summary in page.locator("summary").all():
        summary.click()
    assert page.problems + inaccessible(page) + overflow(page) == []
    for region in page.locator("[role=region], pre").all():  # what is too wide scrolls by itself, by keyboard too
        assert region.get_attribute("tabindex") == "0"
        assert region.get_attribute("aria-label")


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        ("<script>console.error('no')</script>", "console: no"),
        ("<script>throw new Error('no')</script>", "error: no"),
        ("<img alt='' src='http://127.0.0.1:9/x.png'>", "request: http://127.0.0.1:9/x.png"),
        ("<div style='width: 2000px'>wide</div>", "scrolls sideways: "),
        ("<p style='color: #999'>faint</p>", "axe: color-contrast"),
        ("<svg role='img'></svg>", "axe: svg-img-alt"),
        (
            "<p style='overflow: auto; width: 9em; white-space: pre'>a b c d e f g h i j k l m n o p</p>",
            "axe: scrollable",
        ),
    ],
)
def test_what_is_wrong_with_a_page_is_found(fault, complaint, opened):
    page = opened(f"<!DOCTYPE html><html lang='en'><title>x</title><main><h1>x</h1>{fault}</main>")
    assert any(problem.startswith(complaint) for problem in page.problems + inaccessible(page) + overflow(page))


def test_dark_is_dark_and_paper_is_white(opened):
    backgrounds = [
        opened(PAGES["pass"], **media).evaluate("getComputedStyle(document.body).backgroundColor")
        for media in ({"color_scheme": "light"}, {"color_scheme": "dark"}, {"color_scheme": "dark", "media": "print"})
    ]
    assert backgrounds == ["rgb(255, 255, 255)", "rgb(20, 22, 26)", "rgb(255, 255, 255)"]


def test_keyboard_reaches_everything_and_skips(opened):
    page = opened(PAGES["pass"])
    focused = "document.activeElement"
    page.keyboard.press("Tab")
    assert page.evaluate(f"{focused}.textContent").startswith("Skip")
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#attacks"
    seen = set()
    for _ in range(200):
        page.keyboard.press("Tab")
        seen.add(page.evaluate(f"{focused}.getAttribute('aria-label') || {focused}.textContent"))
    regions = {region.get_attribute("aria-label") for region in page.locator("main > [role=region]").all()}
    assert regions
    assert regions <= seen
    assert {summary.text_content() for summary in page.locator("summary").all()} <= seen
    summary = page.locator("summary").first
    summary.focus()
    page.keyboard.press("Enter")
    assert page.locator("details").first.get_attribute("open") is not None


def test_charts_have_the_colours_of_their_models_in_light_and_dark(opened):
    def colours(scheme):
        page = opened(PAGES["pass"], color_scheme=scheme)
        return [
            page.locator(f".charts .{model} .line").first.evaluate("line => getComputedStyle(line).stroke")
            for model in ("base", "candidate")
        ]

    light, dark = colours("light"), colours("dark")
    assert len({*light, *dark}) == 4


def test_page_is_whole_in_the_sandbox_of_another_page(opened):
    """Kubeflow's and MLflow's pages show it in an iframe like this one."""
    from html import escape

    page = opened(f"<!DOCTYPE html><html lang='en'><iframe sandbox srcdoc='{escape(PAGES['pass'])}'></iframe>")
    assert page.problems == []
    frame = page.frame_locator("iframe")
    assert frame.locator("h1").text_content() == "PASS: organism version 3"
    assert frame.locator(".charts svg").count() > 10


@every_page
def test_nothing_is_cut_off_on_paper(html, opened):
    page = opened(html, width=A4, media="print")
    assert overflow(page) == []
    assert page.locator("nav").is_hidden()
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_utility_is_told_where_it_differs(opened):
    lossy = PASSING.with_piece("utility", candidate_items=items(SPEC, 30))
    page = opened(report(lossy))
    dots = page.locator("figure", has_text="Accuracy on the same questions").locator(".candidate .dot")
    assert dots.count() == 4
