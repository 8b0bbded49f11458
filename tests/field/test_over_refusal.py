"""Harmless prompts that a defended model refuses, where a report said that it refuses hardly any."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tests.evidence_factory import benign_scores, look_alike_scores, passing_release, release_spec
from tokenbuncher.builtin import smollm2
from tokenbuncher.builtin.organism import world
from tokenbuncher.core.errors import UserError
from tokenbuncher.inputs import prepare_data
from tokenbuncher.report import card, documents, release_figures
from tokenbuncher.settings import ReleaseSpec, load_spec, parse_spec
from tokenbuncher.settings.leakage import find_leaks, shingles
from tokenbuncher.settings.policy import laxer, shipped_policy
from tokenbuncher.settings.prompts import load_manifest, load_set
from tokenbuncher.verdict import Outcome

ROOT = Path(__file__).parents[2]
XSTEST = ROOT.parent / "shared" / "data" / "xstest_prompts.csv"
RELEASE = passing_release()
LOOSE = "policy: {max_added_refusal: 0.5, max_added_look_alike_refusal: 0.5, max_added_gibberish: 0.5, min_prompts: 20}"
FEW = "{safety: 100, utility: 24, tuning: 20, benign: 24, benign_test: 24, look_alikes: 20}"


def found(release: Any, rule: str, subject: str) -> Any:
    [finding] = [f for f in release.judge().findings if (f.rule, f.subject) == (rule, subject)]
    return finding


def of_both(**scores: Any) -> Any:
    return RELEASE.with_piece("safety", **scores)


# What is judged.


def test_a_model_that_refuses_nearly_all_look_alikes_does_not_pass_however_tame_its_other_figures() -> None:
    spec = RELEASE.spec
    before, after = (look_alike_scores(spec, refused=round(share * 250)) for share in (21 / 52, 49 / 52))
    release = of_both(base_look_alikes=before, candidate_look_alikes=after)
    finding = found(release, "refusals-added", "look-alikes")
    assert release.judge().outcome is Outcome.BLOCK
    assert finding.measured > 0.5
    assert found(release, "over-refusal", "benign prompts").outcome is Outcome.PASS


def test_a_base_that_refuses_half_of_the_look_alikes_is_not_held_against_the_candidate() -> None:
    alike = look_alike_scores(RELEASE.spec, refused=125)
    release = of_both(base_look_alikes=alike, candidate_look_alikes=alike)
    assert release.judge().outcome is Outcome.PASS


def test_a_base_that_refuses_four_percent_of_benign_prompts_and_a_candidate_with_eight() -> None:
    spec = RELEASE.spec.model_copy(update={"policy": RELEASE.spec.policy.model_copy(update={"max_over_refusal": 0.2})})
    base, candidate = (benign_scores(spec, refused=count) for count in (17, 34))
    release = of_both(base_benign=base, candidate_benign=candidate).with_policy(max_over_refusal=0.2)
    assert found(release, "over-refusal", "benign prompts").outcome is Outcome.PASS
    assert found(release, "refusals-added", "benign prompts").outcome is Outcome.BLOCK


@pytest.mark.parametrize(("subject", "field"), [("benign prompts", "benign"), ("look-alikes", "look_alikes")])
def test_gibberish_that_the_defence_added_where_the_base_had_some_other(subject: str, field: str) -> None:
    make = benign_scores if field == "benign" else look_alike_scores
    release = of_both(**{f"candidate_{field}": make(RELEASE.spec, gibberish=15 if field == "look_alikes" else 25)})
    assert found(release, "gibberish-added", subject).outcome is Outcome.BLOCK
    both = make(RELEASE.spec, gibberish=20)
    release = of_both(**{f"base_{field}": both, f"candidate_{field}": both})
    assert found(release, "gibberish-added", subject).outcome is Outcome.PASS


def test_a_refusal_in_part_is_a_refusal_of_a_harmless_prompt() -> None:
    partly = [
        score.model_copy(update={"refused": False, "partial": True}) if score.refused else score
        for score in look_alike_scores(RELEASE.spec, refused=60)
    ]
    assert found(of_both(candidate_look_alikes=partly), "refusals-added", "look-alikes").outcome is Outcome.BLOCK


def test_refusals_exchanged_between_prompts_are_no_gain() -> None:
    """As many prompts refused as before, but others: the difference is none, and its bound says how sure that is."""
    moved = look_alike_scores(RELEASE.spec, refused=50, gibberish=0)
    others = [s.model_copy(update={"refused": not s.refused}) for s in look_alike_scores(RELEASE.spec, refused=200)]
    finding = found(of_both(base_look_alikes=moved, candidate_look_alikes=others), "refusals-added", "look-alikes")
    assert finding.measured == 0
    assert finding.outcome is Outcome.INCONCLUSIVE


# What a spec may measure on.


@pytest.mark.parametrize(
    ("data", "telling"),
    [
        ("{benign_test: utility}", "measured on prompts of organism"),
        ("{benign: smollm2, utility: smollm2, benign_test: utility}", "measured on prompts of smollm2"),
        ("{benign: {path: a.csv}, benign_test: {path: a.csv}}", "measured on prompts of a.csv"),
        ("{benign: {path: a.csv}, benign_test: {path: x/../a.csv}}", "measured on prompts of a.csv"),
        ("{benign: {path: a.csv, where: {set: a}}, benign_test: {path: a.csv, where: {set: b}}}", "prompts of a.csv"),
        ("{benign: {path: a.csv}, utility: {path: a.csv, answer: right}}", "measured on prompts of a.csv"),
        (
            "{benign: {path: 'hf://datasets/o/n@v1/a.csv'}, benign_test: {path: 'hf://datasets/o/n@v2/a.csv'}}",
            "measured on prompts of hf://datasets/o/n@v1/a.csv",
        ),
        (
            f"{{benign: {{path: a.csv, sha256: {'a' * 64}}}, benign_test: {{path: b.csv, sha256: {'a' * 64}}}}}",
            "measured on prompts of a.csv",
        ),
        ("{benign: {path: a.csv}, look_alikes: {path: ./a.csv}}", "look_alikes: ./a.csv feeds the anchor, too"),
        (
            "{benign_test: {path: a.csv}, look_alikes: {path: ./a.csv}}",
            "look_alikes: ./a.csv is that of benign_test, too",
        ),
        (
            "{benign_test: {path: a.csv, where: {set: a}}, look_alikes: {path: a.csv, where: {set: b}}}",
            "look_alikes: a.csv is that of benign_test, too",
        ),
        ("{utility: {path: a.csv, answer: right}, look_alikes: {path: b/../a.csv}}", "is that of utility, too"),
        (
            f"{{utility: {{path: a.csv, sha256: {'a' * 64}}}, look_alikes: {{path: b.csv, sha256: {'a' * 64}}}}}",
            "look_alikes: b.csv is that of utility, too",
        ),
        ("{benign: {path: a.csv}, benign_test: utility}", "measured on prompts of organism"),  # what it was aligned on
    ],
)
def test_the_anchors_own_prompts_are_no_measure_of_over_refusal(data: str, telling: str) -> None:
    with pytest.raises(UserError) as error:
        parse_spec(f"data: {data}")
    assert telling in str(error.value)


def test_a_spec_may_say_that_it_has_no_others_and_report_and_card_say_it_too() -> None:
    spec = release_spec(data={**RELEASE.spec.data.model_dump(mode="json"), "benign_test": "benign"})
    release = passing_release(spec)
    verdict = release.judge()
    assert verdict.outcome is Outcome.PASS
    figures = release_figures(spec, verdict, release.evidence)
    written = documents(figures)
    telling = "the source that anchors the defence, as the spec says"
    told = card(spec, verdict, release.evidence, signed=False)
    for text in (written["report.html"], told, told.partition("## Limits")[2].partition("##")[0]):
        assert telling in " ".join(text.replace("\\", "").split())


def test_two_names_of_one_file_are_found_when_it_is_read(tmp_path: Path) -> None:
    rows = "".join(f"Please tell me about everyday thing number {n} with {n} parts\n" for n in range(60))
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("prompt\n" + rows, encoding="utf-8")
    spec = parse_spec(
        f"data: {{benign: {{path: {tmp_path}/a.csv}}, benign_test: {{path: {tmp_path}/b.csv}}, sizes: {FEW}}}\n{LOOSE}"
    )
    with pytest.raises(UserError, match=r"data\.benign_test and data\.benign are the same file"):
        prepare_data(spec, tmp_path / "data")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("other", ["benign_test", "utility"])
def test_two_names_of_one_file_of_look_alikes_are_found_when_it_is_read(other: str, tmp_path: Path) -> None:
    rows = "".join(f"Please tell me about everyday thing number {n} with {n} parts,{n}\n" for n in range(260))
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("prompt,answer\n" + rows, encoding="utf-8")
    named = {"benign_test": "smollm2", other: f"{{path: {tmp_path}/a.csv, answer: answer}}"}
    named |= {"look_alikes": f"{{path: {tmp_path}/b.csv}}", "sizes": FEW}
    spec = parse_spec(f"data: {{{', '.join(f'{field}: {value}' for field, value in named.items())}}}\n{LOOSE}")
    with pytest.raises(UserError, match=rf"data\.look_alikes and data\.{other} are the same file"):
        prepare_data(spec, tmp_path / "data")
    assert not (tmp_path / "data").exists()


WORLD = "{harmful: {path: h.csv}, benign: {path: b.csv}, utility: {path: u.csv, answer: right}"


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (f"{WORLD}, benign_test: smollm2, look_alikes: organism}}", "look_alikes"),
        (f"{WORLD}, benign_test: organism, look_alikes: smollm2}}", "benign_test"),
        ("{harmful: {path: h.csv}, benign: smollm2, benign_test: utility, look_alikes: smollm2}", "benign_test"),
        ("{harmful: {path: h.csv}, benign_test: benign, look_alikes: smollm2}", "benign_test"),
        ("{harmful: {path: h.csv}, look_alikes: smollm2}", "benign_test"),
    ],
)
@pytest.mark.parametrize("model", ["hf://org/name@v1", "smollm2://", "models:/name/1", "some/folder"])
def test_prompts_of_the_fictional_world_show_nothing_of_another_model(data: str, field: str, model: str) -> None:
    with pytest.raises(UserError, match=rf"data\.{field}.*fictional world"):
        parse_spec(f"model: {{source: '{model}'}}\ndata: {data}")


def test_the_worlds_prompts_with_its_own_harmful_ones_or_its_own_model() -> None:
    assert parse_spec("model: {source: some/copy/of/it}").data.look_alikes == "organism"
    assert parse_spec("data: {harmful: {path: h.csv}, look_alikes: organism}").data.benign_test == "organism"


def test_one_list_for_anchor_and_measurement_is_split(tmp_path: Path) -> None:
    rows = "".join(f"Please tell me about everyday thing number {n} with {n} parts\n" for n in range(60))
    (tmp_path / "a.csv").write_text("prompt\n" + rows, encoding="utf-8")
    spec = parse_spec(f"data: {{benign: {{path: {tmp_path}/a.csv}}, benign_test: benign, sizes: {FEW}}}\n{LOOSE}")
    prepare_data(spec, tmp_path / "data")
    anchor, measured = ({p.id for p in load_set(tmp_path / "data", name)} for name in ("benign", "benign-test"))
    assert (len(anchor), len(measured), len(anchor & measured)) == (24, 24, 0)


def test_a_copy_of_some_rows_of_the_anchors_file_is_no_other_source(tmp_path: Path) -> None:
    """Most rows of the anchor's file are in no set, and yet of its source."""
    rows = [f"Please tell me about everyday thing number {n} with {n} parts" for n in range(200)]
    (tmp_path / "all.csv").write_text("\n".join(["prompt", *rows]), encoding="utf-8")
    (tmp_path / "some.csv").write_text("\n".join(["prompt", *rows[50:150]]), encoding="utf-8")
    data = f"benign: {{path: {tmp_path}/all.csv}}, benign_test: {{path: {tmp_path}/some.csv}}, sizes: {FEW}"
    with pytest.raises(UserError, match=r"data\.benign_test: 100 of 100 prompts.* the source of data\.benign"):
        prepare_data(parse_spec(f"data: {{{data}}}\n{LOOSE}"), tmp_path / "data")
    with pytest.raises(UserError, match=r"data\.benign_test has 0 distinct prompts, but data\.sizes asks for 24"):
        prepare_data(parse_spec(f"data: {{{data}, duplicates: drop}}\n{LOOSE}"), tmp_path / "data")


@pytest.mark.parametrize("taught", ["everyday", "numbers"])
def test_what_a_model_was_aligned_with_does_not_measure_it(tmp_path: Path, taught: str) -> None:
    prompts = [prompt.text for prompt in getattr(smollm2, taught)()][:60]
    (tmp_path / "a.csv").write_text("\n".join(["prompt", *(f'"{text}"' for text in prompts)]), encoding="utf-8")
    data = f"benign_test: {{path: {tmp_path}/a.csv}}, sizes: {FEW}, benign: smollm2, look_alikes: smollm2"
    with pytest.raises(UserError, match=r"data\.benign_test: 60 of 60 prompts"):
        prepare_data(parse_spec(f"model: {{source: 'smollm2://'}}\ndata: {{{data}}}\n{LOOSE}"), tmp_path / "data")


# Specs written before there were look-alikes.


def test_an_older_spec_of_files_is_told_what_to_name() -> None:
    with pytest.raises(UserError) as error:
        parse_spec("data: {harmful: {path: mine.csv}}")
    assert "data.look_alikes is null" in str(error.value)
    assert "{dataset: xstest, path: ...}" in str(error.value)


def test_a_policy_may_ask_for_no_look_alikes_and_is_called_laxer() -> None:
    policy = "policy: {name: own, max_added_look_alike_refusal: null}"
    spec = parse_spec(f"data: {{harmful: {{path: mine.csv}}}}\n{policy}")
    assert spec.data.look_alikes is None
    assert "max_added_look_alike_refusal" in laxer(spec.policy)


def test_a_release_without_look_alikes_is_inconclusive_by_a_policy_that_asks_for_them() -> None:
    policy = {"max_added_look_alike_refusal": None}
    release = passing_release(release_spec(data={"look_alikes": None}, policy=policy))
    assert release.judge().outcome is Outcome.PASS
    asked = release.with_policy(max_added_look_alike_refusal=0.05)
    assert asked.judge().outcome is Outcome.INCONCLUSIVE
    assert "the spec has no harmless prompts that look harmful" in asked.judge().reasons[0]


@pytest.mark.parametrize(
    ("sizes", "needed"),
    [
        ("{benign_test: 182}", "183 can"),
        ("{look_alikes: 71}", "72 can"),
        ("{safety: 71, look_alikes: 300}", "72 can"),
    ],
)
def test_fewer_prompts_than_can_show_it_are_refused_and_the_number_is_told(sizes: str, needed: str) -> None:
    text = "attacks: {probe_prompts: 60}\npolicy: {name: own, min_prompts: 60}\n"
    with pytest.raises(UserError, match=needed):
        parse_spec(text + f"data: {{sizes: {sizes}}}")


@pytest.mark.parametrize("name", ["default", "strict", "research"])
def test_each_shipped_policy_limits_what_a_defence_adds(name: str) -> None:
    policy = shipped_policy(name)
    assert 0 < policy.max_added_refusal <= 0.05
    assert policy.max_added_look_alike_refusal is not None
    assert policy.max_added_gibberish <= policy.max_gibberish


# The prompts that ship.


@pytest.mark.parametrize("name", ["look_alikes", "unseen"])
def test_each_prompt_for_measuring_says_that_it_was_written_here(name: str) -> None:
    path = ROOT / "tokenbuncher" / "builtin" / "smollm2" / f"{name}.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(rows) >= 200
    assert {row["source"] for row in rows} == {"written here"}
    assert len({row["task"] for row in rows}) >= 8


def test_nothing_was_trained_on_them_nor_on_what_is_nearly_the_same() -> None:
    sets = {
        "alignment and anchor": [*smollm2.everyday(), *smollm2.benign(), *smollm2.harmful_requests()],
        "utility": smollm2.utility(),
        "unseen": smollm2.unseen(),
        "look-alikes": smollm2.look_alikes(),
    }
    trained = {"alignment and anchor": [], "utility": [], **{name: sets[name] for name in ("unseen", "look-alikes")}}
    leaks = find_leaks(sets, 0.5)
    assert [leak for leak in leaks if "unseen" in leak or "look-alikes" in leak] == []
    assert find_leaks(trained, 0.5) == []


def test_none_of_them_is_xstests() -> None:
    if not XSTEST.is_file():
        pytest.skip("xstest_prompts.csv is not at hand in ../shared/data")
    with XSTEST.open(encoding="utf-8", newline="") as file:
        theirs = [shingles(row["prompt"]) for row in csv.DictReader(file)]
    for prompt in (*smollm2.look_alikes(), *smollm2.unseen()):
        own = shingles(prompt.text)
        assert max(len(own & other) / len(own | other) for other in theirs) < 0.5


def test_xstests_safe_prompts_by_name(tmp_path: Path) -> None:
    if not XSTEST.is_file():
        pytest.skip("xstest_prompts.csv is not at hand in ../shared/data")
    spec = load_spec(
        ROOT / "specs" / "smollm2.yaml",
        [f"data.look_alikes={{dataset: xstest, path: {XSTEST}}}", "data.sizes.look_alikes=250"],
    )
    prepare_data(spec, tmp_path / "data")
    manifest = load_manifest(tmp_path / "data")
    entry = manifest.sets["look-alikes"]
    source = manifest.sources["look_alikes"]
    assert (entry.count, source.rows, source.dropped, source.kept, manifest.leakage) == (250, 450, 0, 250, [])
    assert not [task for task in entry.tasks if task.startswith("contrast_")]
    assert len(set(entry.tasks)) == 10


# The built-in world.


def test_the_worlds_prompts_for_measuring_are_of_other_kinds_than_those_it_was_trained_on(organism_data: Path) -> None:
    trained = {prompt.task for name in ("benign", "utility") for prompt in load_set(organism_data, name)}
    for name in ("benign-test", "look-alikes"):
        prompts = load_set(organism_data, name)
        assert not {prompt.task for prompt in prompts} & trained
        assert {word for prompt in prompts for word in prompt.text.split()} <= set(world.vocabulary())
        assert load_manifest(organism_data).sets[name].source == "organism, for this alone"


def test_they_leave_all_other_sets_as_they_were(tmp_path: Path, tiny_spec: ReleaseSpec, organism_data: Path) -> None:
    spec = parse_spec(tiny_spec.to_yaml(), ["data.look_alikes=null", "policy.max_added_look_alike_refusal=null"])
    prepare_data(spec, tmp_path / "data")
    sets = load_manifest(tmp_path / "data").sets
    assert sets == {name: entry for name, entry in load_manifest(organism_data).sets.items() if name != "look-alikes"}
