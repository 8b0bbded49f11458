"""The defence by its step log: what it ended as, its figures, and its charts."""

from __future__ import annotations

import re

import pytest

from tests.evidence_factory import defence_rows, passing_release
from tests.report.test_charts import drawn
from tokenbuncher.evidence import Step
from tokenbuncher.report import ReleaseFigures, card, defence_figures, documents, release_figures, tables
from tokenbuncher.report.charts import defence_charts
from tokenbuncher.report.defence import ended
from tokenbuncher.settings import parse_spec

RELEASE = passing_release()
CERTAIN = parse_spec("{}").defence
WORTH = " From its step log, which is no evidence: no rule sees it, and it is not signed."


def steps(rows):
    return [Step(int(row["step"]), {name: value for name, value in row.items() if name != "step"}) for row in rows]


def figures(**changes):
    return defence_figures(CERTAIN, steps(defence_rows(**changes)))


def test_the_figures_are_those_that_were_measured_on_held_out_prompts():
    found = figures()
    assert (found.steps, found.target, found.max_kl, found.max_refusal_mass) == (40, 1e-7, 0.02, 0.002)
    assert [point.step for point in found.curve] == [1, 20, 40]
    last = found.curve[-1]
    assert (last.escape_max, last.escape, last.escaping) == (5e-8, 1.25e-8, 0.0)
    assert (last.kl, last.refusal_mass, last.refusals_added) == (0.01, 0.001, 0.025)


@pytest.mark.parametrize("names", [[], ["loss", "escape"], ["loss", "held_out_escape_max", "held_out_kl"]])
def test_a_log_without_bounds_shows_nothing(names, capsys):
    """By recipes without a target, and of defences before the log had bounds."""
    rows = [{"step": row["step"], **dict.fromkeys(names, 0.5)} for row in defence_rows()]
    assert defence_figures(CERTAIN, steps(rows)) is None
    assert defence_figures(CERTAIN, []) is None
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("recipe", ["none", "log-entropy", "paper"])
def test_a_recipe_without_a_target_has_reached_none(recipe):
    """Whatever log lies beside its evidence."""
    assert defence_figures(parse_spec(f"defence: {{recipe: {recipe}}}").defence, steps(defence_rows())) is None


@pytest.mark.parametrize("bound", ["target", "max_kl", "max_refusal_mass"])
def test_a_log_with_other_bounds_is_that_of_another_defence(bound, capsys):
    other = parse_spec(f"defence: {{certain_refusal: {{{bound}: 0.5}}}}").defence
    assert defence_figures(other, steps(defence_rows())) is None
    assert "its bounds are not those of the spec" in capsys.readouterr().out


def test_no_target_is_reached_by_a_share_that_the_worst_belies():
    assert "without meeting its target" in ended(figures(held_out_escaping=0.0, held_out_escape_max=0.9))


def test_it_says_when_the_target_was_reached():
    assert ended(figures()) == (
        "Recipe certain-refusal reached its target after 40 steps: no held-out harmful prompt escapes with a "
        f"probability above 1e-07, the worst with 5e-08.{WORTH}"
    )


@pytest.mark.parametrize(
    ("changes", "lacks"),
    [
        (
            {"held_out_escaping": 0.03125, "held_out_escape_max": 0.2},
            "3.12% of the held-out harmful prompts escape with a probability above 1e-07, the worst with 0.2",
        ),
        ({"held_out_kl": 0.03}, "KL from the base model on benign prompts is 0.03 nats, 0.02 allowed"),
        ({"held_out_refusal_mass": 0.0042}, "the refusal mass added on benign prompts is 0.42%, 0.2% allowed"),
        (
            {"held_out_kl": 0.03, "held_out_refusal_mass": 0.0042},
            "KL from the base model on benign prompts is 0.03 nats, 0.02 allowed; the refusal mass added on benign "
            "prompts is 0.42%, 0.2% allowed",
        ),
    ],
)
def test_it_says_what_was_not_reached(changes, lacks):
    expected = f"Recipe certain-refusal ended after 40 steps without meeting its target and bounds: {lacks}.{WORTH}"
    assert ended(figures(**changes)) == expected


def test_the_table_has_the_tail_beside_its_bounds():
    table = tables.defence(figures())
    first, last, bound = (dict(zip(table.header, row, strict=True)) for row in table.rows)
    assert (first["step"], first["worst escape"], first["above the target"]) == ("1", "0.9", "100%")
    assert (last["step"], last["worst escape"], last["above the target"]) == ("40", "5e-08", "0%")
    assert (last["KL, share of its bound"], last["refusal mass added"], last["refusals added"]) == (
        "50%",
        "0.1%",
        "2.5%",
    )
    assert list(bound.values()) == ["bound", "", "1e-07", "-", "0%", "100%", "0.2%", "-"]


def test_the_charts_tell_every_figure_in_words():
    escape, kl, mass, refusals = map(drawn, defence_charts(figures()))
    assert escape == (
        "Defence, probability of escape by step: worst from 0.9 to 5e-08, at most 0.9; "
        "mean from 0.225 to 1.25e-08, at most 0.225; limit from 1e-07 to 1e-07, at most 1e-07.",
        {"worst": (1, 3), "mean": (1, 3), "limit": (1, 0)},
    )
    assert kl[0].startswith("Defence, KL, share of its bound by step: measured from 1.25% to 50%, at most 50%; limit ")
    assert mass[1] == {"measured": (1, 3), "limit": (1, 0)}
    assert refusals == (
        "Defence, refusals added by step: measured from 0.0625% to 2.5%, at most 2.5%.",
        {"measured": (1, 3)},
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"held_out_escape": 0.0, "held_out_escape_max": 0.0},
        {"held_out_kl": 1e9},
        {"held_out_escape_max": 1.0, "held_out_escape": 1.0, "held_out_refusal_mass": 1.0},
    ],
)
def test_whatever_a_defence_can_have_is_drawn(changes):
    assert all(chart.svg for chart in defence_charts(figures(**changes)))
    assert all(ended(figures(**changes)))


def test_one_measurement_is_drawn():
    rows = defence_rows()
    assert all(chart.svg for chart in defence_charts(defence_figures(CERTAIN, steps(rows[:1]))))
    assert all(chart.svg for chart in defence_charts(defence_figures(CERTAIN, steps(rows[19:20]))))


def test_documents_and_card_show_it_and_without_it_nothing():
    verdict, found = RELEASE.judge(), figures(held_out_kl=0.03)
    shown = documents(release_figures(RELEASE.spec, verdict, RELEASE.evidence, defence=found))
    plain = documents(release_figures(RELEASE.spec, verdict, RELEASE.evidence))
    written = card(RELEASE.spec, verdict, RELEASE.evidence, signed=False, defence=found)
    for text in (shown["report.html"], shown["report.md"], written):
        assert ended(found) in text
    assert '<a href="#defence">Defence</a>' in shown["report.html"]
    assert '<a href="#defence">' not in plain["report.html"]
    assert re.search(r"^### Defence\n\nRecipe certain-refusal ended .*\n\n\| measured \| ste", written, re.MULTILINE)
    assert "### Defence" not in card(RELEASE.spec, verdict, RELEASE.evidence, signed=False)


def test_figures_of_a_report_made_before_are_read_and_new_ones_are_read_back():
    verdict = RELEASE.judge()
    plain = release_figures(RELEASE.spec, verdict, RELEASE.evidence)
    assert ReleaseFigures.model_validate_json(plain.model_dump_json(exclude={"defence"})) == plain
    new = release_figures(RELEASE.spec, verdict, RELEASE.evidence, defence=figures())
    assert ReleaseFigures.model_validate_json(new.model_dump_json()) == new
