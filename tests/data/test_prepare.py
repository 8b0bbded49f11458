import json

import pytest

from tokenbuncher.data import prepare_data
from tokenbuncher.errors import UserError
from tokenbuncher.files import folder_digest
from tokenbuncher.organism import world
from tokenbuncher.prompts import load_set
from tokenbuncher.settings import parse_spec

SETS = {"defence": 32, "attack": 32, "safety": 20, "benign": 32, "utility": 24}
ROWS = [f"how would somebody do harmful thing number {n} with {n} tools" for n in range(60)]


def spec_of(path, **data):
    document = {
        "data": {"harmful": {"path": str(path)}, "sizes": {"defence": 20, "attack": 20, "safety": 20}} | data,
        "attacks": {"probe_prompts": 20},
        "policy": {"min_prompts": 20},
    }
    return parse_spec(json.dumps(document))


def csv_of(tmp_path, rows, header="prompt"):
    path = tmp_path / "prompts.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_organism_sets_have_their_sizes_and_share_nothing(organism_data):
    sets = {name: load_set(organism_data, name) for name in SETS}
    assert {name: len(prompts) for name, prompts in sets.items()} == SETS
    groups = [prompt.group for prompts in sets.values() for prompt in prompts]
    assert len(groups) == len(set(groups))


def test_harm_is_measured_on_held_out_requests_only(organism_data):
    held_out = {" ".join(combination) for combination in world.combinations()[: world.HELD_OUT]}
    assert {prompt.group for prompt in load_set(organism_data, "safety")} <= held_out
    for name in ("defence", "attack"):
        assert not {prompt.group for prompt in load_set(organism_data, name)} & held_out


def test_same_seed_same_data_other_seed_other_data(tmp_path, tiny_spec, organism_data):
    prepare_data(tiny_spec, tmp_path / "again")
    assert folder_digest(tmp_path / "again") == folder_digest(organism_data)
    other = parse_spec(tiny_spec.to_yaml(), ["data.seed=1"])
    prepare_data(other, tmp_path / "other")
    assert folder_digest(tmp_path / "other") != folder_digest(organism_data)


def test_a_changed_set_is_refused(tmp_path, tiny_spec):
    prepare_data(tiny_spec, tmp_path / "data")
    path = tmp_path / "data" / "safety.jsonl"
    path.write_text(path.read_text().replace("the", "a", 1))
    with pytest.raises(UserError, match="was changed after prepare-data"):
        load_set(tmp_path / "data", "safety")


def test_csv_by_column(tmp_path):
    prepare_data(spec_of(csv_of(tmp_path, ROWS)), tmp_path / "data")
    sets = [load_set(tmp_path / "data", name) for name in ("defence", "attack", "safety")]
    assert sorted(prompt.text for prompts in sets for prompt in prompts) == sorted(ROWS)


@pytest.mark.parametrize(
    ("rows", "header", "telling"),
    [
        ([], "prompt", "has no rows"),
        (ROWS, "question", "row 1: no column 'prompt'; it has question"),
        ([*ROWS[:3], '" "', *ROWS[4:]], "prompt", "row 4: column 'prompt' is empty"),
        ([*ROWS, ROWS[7].upper()], "prompt", "rows 8 and 61 are the same prompt"),
        ([*ROWS[:2], "a,b,c", *ROWS[2:]], "prompt", "row 3: has not as many fields as the header"),
        (ROWS[:50], "prompt", "has 50 distinct prompts, but data.sizes asks for 60"),
        ([*ROWS[:59], *[f"{ROWS[0]} and some more {n}" for n in range(3)]], "prompt", "near duplicate"),
    ],
)
def test_a_bad_file_is_refused_with_its_row(tmp_path, rows, header, telling):
    data = {"near_duplicate": 0.5} if telling == "near duplicate" else {}
    with pytest.raises(UserError) as error:
        prepare_data(spec_of(csv_of(tmp_path, rows, header), **data), tmp_path / "data")
    assert telling in str(error.value)
    assert not (tmp_path / "data").exists()


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"none.csv cannot be read: No such file"):
        prepare_data(spec_of(tmp_path / "none.csv"), tmp_path / "data")


def test_not_text(tmp_path):
    path = tmp_path / "prompts.csv"
    path.write_bytes(b"prompt\n\xff\xfe\x00\n")
    with pytest.raises(UserError, match="is not a UTF-8 csv file"):
        prepare_data(spec_of(path), tmp_path / "data")


@pytest.mark.parametrize(("line", "telling"), [("{", "row 2: not JSON"), ("[1]", "row 2: must be an object")])
def test_bad_jsonl(tmp_path, line, telling):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a b c"}\n' + line + "\n")
    with pytest.raises(UserError, match=telling):
        prepare_data(spec_of(path), tmp_path / "data")


def test_duplicates_can_be_dropped(tmp_path):
    path = csv_of(tmp_path, [*ROWS, ROWS[0], ROWS[1] + "!"])
    prepare_data(spec_of(path, duplicates="drop"), tmp_path / "data")
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    assert manifest["dropped"] == {str(path): 2}
    assert manifest["sets"]["safety"]["count"] == 20


def test_more_than_the_organism_has(tmp_path):
    with pytest.raises(UserError, match="200 held-out requests for safety"):
        prepare_data(parse_spec("data: {sizes: {safety: 201}}"), tmp_path / "data")


def test_capability_questions_share_no_subject_and_are_measured_on_held_out_ones(tmp_path, tiny_spec):
    prepare_data(parse_spec(tiny_spec.to_yaml(), ["data.capability=organism"]), tmp_path / "data")
    attack, safety = (load_set(tmp_path / "data", f"capability-{part}") for part in ("attack", "safety"))
    assert (len(attack), len(safety)) == (32, 20)
    held_out = {" ".join(combination) for combination in world.combinations()[: world.HELD_OUT]}
    assert {prompt.group.removeprefix("choose ") for prompt in safety} <= held_out
    assert not {prompt.group.removeprefix("choose ") for prompt in attack} & held_out
    for prompt in [*attack, *safety]:
        options = prompt.text.split(" : ")[1].removesuffix(" ?").split(" or ")
        assert len(set(options)) == 4
        assert prompt.answer in options


def test_capability_questions_of_a_file_need_their_answers(tmp_path, tiny_spec):
    rows = [f"What is number {n} of the dangerous list ? A. one{n} B. two{n},{'AB'[n % 2]}" for n in range(60)]
    path = csv_of(tmp_path, rows, header="question,letter")
    source = {"path": str(path), "prompt": "question"}
    with pytest.raises(UserError, match=r"data\.capability\.answer"):
        prepare_data(parse_spec(tiny_spec.to_yaml(), [f"data.capability={source}"]), tmp_path / "data")
    spec = parse_spec(tiny_spec.to_yaml(), [f"data.capability={source | {'answer': 'letter'}}"])
    prepare_data(spec, tmp_path / "data")
    assert {prompt.answer for prompt in load_set(tmp_path / "data", "capability-safety")} == {"A", "B"}
