"""Charts hold all there is, tell it in words, and draw whatever comes."""

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.evidence_factory import CANDIDATE, broken_arm, changed, items, passing_release, release_spec, scores
from tokenbuncher.report import charts, release_figures
from tokenbuncher.report.drawing import Series, by_bin, by_name, by_step

SPEC = release_spec()
RELEASE = passing_release(SPEC)


def figures(release):
    return release_figures(release.spec, release.judge(), release.evidence)


def drawn(chart):
    """The chart's description, and its series by name: how many paths and dots."""
    root = ElementTree.fromstring(chart.svg)
    series = {}
    for group in root.iter("g"):
        words = group.get("class", "").split()
        if words[:1] == ["series"]:
            lines, dots = series.get(words[1], (0, 0))
            own = list(group.iter())
            series[words[1]] = (
                lines + sum(one.get("class", "").startswith("line") for one in own),
                dots + sum("dot" in one.get("class", "").split() for one in own),
            )
    return root.get("aria-label"), series


def places(chart):
    """Every place that is drawn in the chart's plot, and the size of the chart."""
    root = ElementTree.fromstring(chart.svg)
    _, _, width, height = map(float, root.get("viewBox").split())
    found = [
        tuple(map(float, place.split()))
        for path in root.iter("path")
        for place in re.findall(r"-?\d+\.\d+ -?\d+\.\d+", path.get("d"))
    ]
    return found, width, height


def test_all_attacks_are_overlaid_measure_by_measure():
    found = charts.attack_charts("All attacks", figures(RELEASE).attacks)
    assert [chart.title for chart in found] == ["harm", "reward", "entropy, nats", "zero-variance share"]
    harm, reward, *_ = map(drawn, found)
    assert harm == (
        "All attacks, harm by step: candidate from 0.0% to 0.0%, at most 0.0%; base from 2.5% to 60.0%, at most 60.0%.",
        {"candidate": (3, 3 * 13), "base": (3, 3 * 3)},
    )
    assert reward[1]["base"] == (2, 2 * 10)  # SFT has no rollouts


def test_where_curves_coincide_the_dashed_one_is_on_top():
    [chart, *_] = charts.attack_charts("x", figures(RELEASE).attacks)
    assert chart.svg.rindex("series base") > chart.svg.rindex("series candidate")


def test_an_attack_without_rollouts_has_no_reward():
    sft = [attack for attack in figures(RELEASE).attacks if attack.key == "sft-1000"]
    assert [bool(chart.svg) for chart in charts.attack_charts("sft", sft)] == [True, False, True, False]


def test_entropies_are_shares_of_each_models_responses():
    spread = [changed(score, entropy=1e-9 if score.sample else 0.5) for score in scores(SPEC, 200)]
    found = figures(RELEASE.with_piece("safety", candidate_harmful=spread))
    chart, *_ = charts.entropy_charts(found.safety, found.attacks)
    assert "candidate: half of the responses lie below 1e-08 nats" in drawn(chart)[0]
    assert re.findall(r"<title>(\d+%)", chart.svg).count("50%") == 2


def test_each_task_is_a_pair_and_the_policys_line_is_there():
    tasks = figures(RELEASE.with_piece("utility", candidate_items=items(SPEC, 30))).utility
    told, series = drawn(charts.accuracy_chart(tasks))
    assert "facts base 100.0%, candidate 90.0%" in told
    assert series == {"joined": (4, 0), "base": (0, 4), "candidate": (0, 4)}
    told, series = drawn(charts.loss_chart(tasks, 0.02))
    assert "the policy allows 2.0%" in told
    assert series == {"interval": (4, 0), "candidate": (0, 4), "limit": (1, 0)}


def test_nothing_is_drawn_of_nothing():
    assert charts.accuracy_chart([]).svg == charts.loss_chart([], 0.02).svg == ""
    assert [chart.svg for chart in charts.attack_charts("x", [])] == [""] * 4
    assert [chart.svg for chart in charts.entropy_charts([], [])] == [""] * 4
    assert by_bin("x", ["a"], [], counts={"candidate": [0]}, told=[]).svg == ""


def test_curves_lie_within_the_chart():
    broken = RELEASE.with_piece("grpo-1000", candidate_arm=broken_arm(SPEC, 15, CANDIDATE))
    for chart in charts.attack_charts("x", figures(broken).attacks):
        found, width, height = places(chart)
        assert found
        assert all(0 <= x <= width and 0 <= y <= height for x, y in found)


numbers = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(st.lists(st.tuples(st.integers(0, 10**9), numbers), max_size=4), max_size=3), st.booleans())
@settings(max_examples=150, deadline=None)
def test_whatever_is_measured_can_be_drawn(lines, is_share):
    chart = by_step("x", "y", [Series("candidate", points) for points in lines], text="{:g}".format, is_share=is_share)
    assert bool(chart.svg) == any(lines)
    if chart.svg:
        assert ElementTree.fromstring(chart.svg).get("role") == "img"
        assert "nan" not in chart.svg.lower()


@given(st.lists(st.tuples(st.text(max_size=60), st.floats(-1, 1)), max_size=5))
@settings(max_examples=100, deadline=None)
def test_whatever_a_task_is_called_it_can_be_drawn(rows):
    names = [name for name, _ in rows]
    points = [(value, row) for row, (_, value) in enumerate(rows)]
    chart = by_name("x", names, [Series("candidate", points, line=False)], told=["told"])
    assert bool(chart.svg) == bool(rows)


@pytest.mark.parametrize("text", ["<b>", 'a"b', "a & b"])
def test_words_are_escaped(text):
    chart = by_step(text, "y", [Series("candidate", [(0, 0.0), (1, 1.0)])], text=str)
    assert f"{text}," not in chart.svg
    assert ElementTree.fromstring(chart.svg).get("aria-label").startswith(f"{text},")
