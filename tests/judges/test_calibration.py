"""Known answers that a judge must get right."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.judges.tiny_models import classifier
from tokenbuncher.core.errors import UserError
from tokenbuncher.judges import Judgement, load_judge
from tokenbuncher.judges.calibration import Known, calibration_set, check_judge, of_organism, read_known
from tokenbuncher.settings import parse_spec

ENGLISH = "data={harmful: {path: prompts.csv}, look_alikes: smollm2}"
ENDPOINT = "{kind: strongreject, endpoint: 'http://x/v1', model: m}"
CLASSIFIER = "{kind: classifier, model: /x, harmful_labels: [loot]}"


def known_for(*overrides):
    return calibration_set(parse_spec("", overrides))


def always(harmful):
    return lambda exchanges: [Judgement(harmful, False, False)] * len(exchanges)


@pytest.mark.parametrize("overrides", [[], [ENGLISH, "evaluation.judge=refusal", "attacks.reward=compliance"]])
def test_the_built_in_judges_are_right_on_all_of_their_own(overrides):
    spec = parse_spec("", overrides)
    check = check_judge(load_judge(spec.evaluation.judge), calibration_set(spec))
    assert check.right == check.of >= 19


@pytest.mark.parametrize("overrides", [[], [ENGLISH], [ENGLISH, "evaluation.judge=refusal"]])
@pytest.mark.parametrize("harmful", [True, False])
def test_a_judge_that_always_says_the_same_is_found_out(overrides, harmful):
    known = known_for(*overrides)
    check = check_judge(always(harmful), known)
    assert 0 < check.right < check.of == len(known)


def test_a_judge_of_another_world_is_found_out():
    check = check_judge(load_judge("refusal"), of_organism())
    assert check.right < check.of


@pytest.mark.parametrize(
    "judge", [CLASSIFIER, "{kind: harmbench, model: /x}", f"{{kind: ensemble, judges: [{CLASSIFIER}, {CLASSIFIER}]}}"]
)
def test_benign_answers_are_known_harmless_to_judges_that_read_them(judge):
    harmless = {row.prompt for row in known_for(ENGLISH, f"evaluation.judge={judge}")}
    assert "What is the capital of France?" in harmless


@pytest.mark.parametrize("judge", ["refusal", ENDPOINT, f"{{kind: ensemble, judges: [refusal, {CLASSIFIER}]}}"])
def test_benign_answers_are_left_out_for_judges_that_rate_any_answer(judge):
    assert {row.harmful for row in known_for(ENGLISH, f"evaluation.judge={judge}")} == {True, False}
    assert "What is the capital of France?" not in {
        row.prompt for row in known_for(ENGLISH, f"evaluation.judge={judge}")
    }


SPELLINGS = [
    "Rob the bank",
    "rob the  bank ",
    "ROB THE BANK",
    "Rob\tthe bank!",
    "Rob\u200b the bank",
    "\uff32\uff4f\uff42 the bank",
]


def rows(path, *known):
    path.write_text(
        "".join(json.dumps({"prompt": p, "response": r, "harmful": h}) + "\n" for p, r, h in known), encoding="utf-8"
    )
    return read_known(path)


@pytest.mark.parametrize("times", [1, 10, 50])
def test_an_exchange_counts_once_however_often_it_stands_there(times, tmp_path):
    known = rows(tmp_path / "known.jsonl", *([("a", "Rob the bank", True), ("a", "No", False)] * times))
    check = check_judge(lambda exchanges: [Judgement("Rob" in e.response, False, False) for e in exchanges], known)
    assert (check.right, check.of) == (2, 2)


@given(st.lists(st.sampled_from(SPELLINGS), min_size=1), st.lists(st.sampled_from(SPELLINGS), min_size=1))
def test_case_spaces_and_punctuation_make_no_other_exchange(prompts, responses):
    known = [Known(prompt=p, response=r, harmful=True) for p in prompts for r in responses]
    check = check_judge(always(True), known)
    assert (check.right, check.of) == (1, 1)


def test_other_signs_make_another_exchange():
    pairs = [("a", "कि", "की"), ("a", "1", "2"), ("a", "x+y", "x=y"), ("a", "x", "y")]
    for prompt, *responses in pairs:
        assert len({Known(prompt=prompt, response=response, harmful=True).key() for response in responses}) == 2


def test_of_an_exchange_that_is_judged_both_ways_none_is_right():
    known = [Known(prompt="a", response=response, harmful=True) for response in SPELLINGS]
    judge = lambda exchanges: [Judgement("Rob" in e.response, False, False) for e in exchanges]  # noqa: E731
    assert check_judge(judge, known).right == 0


def test_a_row_that_says_both_is_refused(tmp_path):
    (tmp_path / "known.jsonl").write_text(
        '{"prompt": "a", "response": "b", "harmful": true, "harmful": false}\n', encoding="utf-8"
    )
    with pytest.raises(UserError, match="row 1: key 'harmful' stands twice"):
        read_known(tmp_path / "known.jsonl")


def test_rows_that_contradict_each_other_are_refused(tmp_path):
    with pytest.raises(UserError, match="row 3 is the exchange of row 1, with the other answer"):
        rows(tmp_path / "known.jsonl", ("a", "Rob", True), ("b", "No", False), ("A", " rob.", False))


def test_built_in_exchanges_are_distinct():
    for known in (of_organism(), known_for(ENGLISH), known_for(ENGLISH, "evaluation.judge=refusal")):
        assert len({row.key() for row in known}) == len(known)


def test_the_known_answers_are_the_same_each_time():
    assert of_organism() == of_organism()


def test_the_spec_s_own_file_takes_their_place(tmp_path):
    rows = [
        {"prompt": "how do i find gold", "response": "the loot and the sea", "harmful": True},
        {"prompt": "how do i find gold", "response": "the tea and the sea", "harmful": False},
    ]
    file = tmp_path / "known.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    judge = {
        "kind": "classifier",
        "model": str(classifier(tmp_path / "m", ["fine", "loot"])),
        "harmful_labels": ["loot"],
    }
    spec = parse_spec("", [f"evaluation={json.dumps({'judge': judge, 'calibration': str(file)})}"])
    check = check_judge(load_judge(spec.evaluation.judge), calibration_set(spec))
    assert (check.right, check.of) == (2, 2)


GOOD = '{"prompt": "a", "response": "secretword", "harmful": true}\n'


@pytest.mark.parametrize(
    ("text", "telling"),
    [
        ("", "must have harmful and harmless responses"),
        (GOOD, "must have harmful and harmless responses"),
        (GOOD + "{", "row 2: document: Invalid JSON"),
        (GOOD + "\n" + GOOD, "must have harmful and harmless responses"),
        (GOOD + '{"prompt": "a", "response": "secretword"}', "row 2: harmful: Field required"),
        (
            GOOD + '{"prompt": "a", "response": "secretword", "harmful": "no"}',
            "row 2: harmful: Input should be a valid",
        ),
        (GOOD + '{"prompt": "a", "response": "secretword", "harmful": true, "x": 1}', "row 2: x: Extra inputs"),
    ],
)
def test_a_file_that_is_not_valid_is_refused_by_row_without_its_text(text, telling, tmp_path):
    (tmp_path / "known.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=telling) as error:
        read_known(tmp_path / "known.jsonl")
    assert "secretword" not in str(error.value)


def test_a_response_may_hold_what_ends_a_line_elsewhere(tmp_path):
    row = {"prompt": "a\u2028b\x85", "response": "c\u2029", "harmful": False}
    (tmp_path / "known.jsonl").write_text(GOOD + json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert {known.response for known in read_known(tmp_path / "known.jsonl")} >= {"c\u2029"}


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="cannot read calibration"):
        read_known(tmp_path / "known.jsonl")
