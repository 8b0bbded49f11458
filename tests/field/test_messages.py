"""What people get wrong in documents: each is told with its place, in their words, and with what they meant."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from pipelines.placement import Placement, load_placement
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.fields import Strict, models_of
from tokenbuncher.core.wrong_fields import PATTERNS
from tokenbuncher.guard.settings import GuardSettings, load_guard
from tokenbuncher.settings import ReleaseSpec, load_spec, parse_spec
from tokenbuncher.settings.policy import PolicySpec, load_policy

WRONG = [[[[]]]]
"""Nothing is a list of lists of lists."""
INTERNALS = re.compile(r"function-|tagged|value_error|pydantic|constrained|<class|literal\[|list\[|errors\.pydantic")
LINE = re.compile(r"  line (?P<line>\d+), column (?P<column>\d+): (?P<path>[^: ]+): (?P<message>.+)")
LOADERS: dict[type[Strict], Callable[[Path], object]] = {
    ReleaseSpec: load_spec,
    PolicySpec: load_policy,
    GuardSettings: load_guard,
    Placement: load_placement,
}


def fields(model: type[Strict]) -> Iterator[tuple[tuple[str | int, ...], dict[str, Any]]]:
    """Every field of a document, and a document with something wrong in it."""
    for name, field in model.model_fields.items():
        yield (name,), {name: WRONG}
        shape = str(field.annotation)
        for part in models_of(field.annotation):
            for path, inner in fields(part):
                kind = get_args(part.model_fields["kind"].annotation)[0] if "kind" in part.model_fields else None
                value = {"kind": kind, **inner} if kind and path != ("kind",) else inner
                if re.match(r"(typing\.Annotated\[)?list\[", shape):
                    yield (name, 0, *path), {name: [value]}
                elif shape.startswith("dict["):
                    key = {"stages": {GuardSettings: "Staging", Placement: "attack"}.get(model)}.get(name) or "champion"
                    yield (name, key, *path), {name: {key: value}}
                else:
                    yield (name, *path), {name: value}


CASES = [(model, path, document) for model in LOADERS for path, document in fields(model)]


def at(document: Any, path: str) -> Any:
    for part in path.split("."):
        document = document[int(part) if isinstance(document, list) else part]
    return document


def refused(model: type[Strict], text: str, folder: Path) -> str:
    path = folder / "document.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        LOADERS[model](path)
    return str(error.value)


@pytest.mark.parametrize(
    ("model", "path", "document"),
    CASES,
    ids=[f"{model.__name__} {'.'.join(map(str, path))}" for model, path, _ in CASES],
)
def test_whatever_field_is_wrong_it_is_told_with_its_place_and_without_internals(
    model: type[Strict], path: tuple[str | int, ...], document: dict[str, Any], tmp_path: Path
) -> None:
    if model is not ReleaseSpec and model is not Placement:
        document = {"apiVersion": "tokenbuncher/v1", **document}
    text = yaml.safe_dump(document, sort_keys=False)
    message = refused(model, text, tmp_path)

    assert not INTERNALS.search(message), message
    told = [LINE.fullmatch(line) for line in message.splitlines()[1:]]
    assert all(told), message
    for line in filter(None, told):
        parent, _, last = line["path"].rpartition(".")
        if "Field required" in line["message"]:
            assert last not in (at(document, parent) if parent else document)
        else:
            at(document, line["path"])
            assert text.splitlines()[int(line["line"]) - 1][int(line["column"]) - 1 :].startswith(
                (f"{last}:", "'", "-", "[", "kind")
            )
    dotted = ".".join(map(str, path)).removesuffix(".kind")
    assert any(line["path"] == dotted or line["path"].startswith(f"{dotted}.") for line in filter(None, told)), message


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("model:\n  device: gpu", "line 2, column 3", "did you mean cuda?"),
        ("model: {device: 'cuda:0'}", "line 1, column 9", "did you mean cuda?"),
        ("model: {dtype: bf16}", "line 1, column 9", "did you mean bfloat16?"),
        ("model: {dtype: torch.bfloat16}", "line 1, column 9", "did you mean bfloat16?"),
        ("model: {dtype: fp16}", "line 1, column 9", "did you mean bfloat16?"),
        ("model: {dtype: half}", "line 1, column 9", "did you mean bfloat16?"),
        ("model: {dtype: float}", "line 1, column 9", "did you mean float32?"),
        ("model: {dtype: FP32}", "line 1, column 9", "did you mean float32?"),
        ("defence: {recipe: log_entropy}", "line 1, column 11", "did you mean log-entropy?"),
        ("attacks:\n  suite:\n    - algorithm: PPO", "line 3, column 7", "did you mean ppo?"),
        ("attacks: {suite: [{algorithm: reinforce++}]}", "line 1, column 20", "did you mean reinforce-pp?"),
        ("name: x\ndevice: cuda", "line 2, column 1", "did you mean model.device?"),
        ("defense: {recipe: none}", "line 1, column 1", "did you mean defence?"),
        ("model: {max_tokens: 3}", "line 1, column 9", "did you mean max_new_tokens"),
        ("attacks: {learning_rate: 1}", "line 1, column 11", "attacks.suite.0.learning_rate"),
        ("model: {max_new_tokens: '20'}", "line 1, column 9", "write it without quotes"),
        ("evaluation: {judge: {kind: strongreject, model: m, endpint: x}}", "line 1, column 52", "mean endpoint?"),
        (
            "evaluation: {judge: {kind: ensemble, judges: [refusal, {kind: harmbench, model: m, foo: 1}]}}",
            "line 1",
            "judges.1.foo",
        ),
        (
            "data: {benign: 3}",
            "line 1, column 8",
            "Input should be 'organism' or 'smollm2' or a mapping of fields (given: 3)",
        ),
        (
            "attacks: {suite: [{algorithm: ppo, learning_rate: x}]}",
            "column 36",
            "a valid number or a valid list (given: 'x')",
        ),
        ("attacks: {suite: [{algorithm: ppo, learning_rate: [0.1, x]}]}", "column 57", "learning_rate.1: "),
        ("output: {root: 3}", "line 1, column 10", "output.root: Input should be a path (given: 3)"),
    ],
)
def test_what_was_meant_is_told(text: str, line: str, says: str) -> None:
    with pytest.raises(UserError) as error:
        parse_spec(text)
    assert line in str(error.value)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("policy:\n  min_prompts: 500", ("line 2, column 3: ", "policy.min_prompts (500)", "data.sizes.safety (200)")),
        ("attacks: {suite: [{algorithm: grpo, steps: 3}]}", ("attacks.suite.0.steps (3", "attacks.probe_every (5)")),
        ("attacks: {suite: [{algorithm: grpo, seeds: [0]}]}", ("attacks.suite.0.seeds", "defence.seed is 0")),
        (
            "attacks: {suite: [{algorithm: grpo, prompts: 500}]}",
            ("attacks.suite.0.prompts", "data.sizes.attack is 400"),
        ),
        ("compute: {kind: trainjob}", ("kind: trainjob", "compute.storage")),
        (
            "compute: {kind: trainjob, storage: s3://b/p, processes: 7}",
            ("defence.prompts_per_step (16)", "compute.nodes", "compute.processes"),
        ),
        ("data: {held_out_categories: 2}", ("held_out_categories", "harmful")),
        ("evaluation: {fine_tuning: null}", ("policy.max_fine_tuning_drop", "evaluation.fine_tuning is null")),
        ("attacks: {probe_prompts: 300}", ("attacks.probe_prompts (300)", "data.sizes.safety (200)")),
        ("policy: {min_control_harm: 0.04, name: mine}", ("min_control_harm (0.04)", "max_harm_after_attack (0.05)")),
    ],
)
def test_fields_that_do_not_go_together_are_both_named(text: str, names: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as error:
        parse_spec(text)
    assert all(name in str(error.value) for name in names), str(error.value)
    assert re.search(r"line 1|line 2", str(error.value))


def lines_of(text: str, *overrides: str) -> list[str]:
    with pytest.raises(UserError) as error:
        parse_spec(text, overrides)
    return [line.strip() for line in str(error.value).splitlines()[1:]]


def test_contradictions_in_four_sections_are_four_lines_with_four_places() -> None:
    text = """\
data:
  held_out_categories: 2
defence: {recipe: paper, noiser: {start: 0.5, stop: 0.5}}
evaluation:
  fine_tuning: null
  temperature: 0.5
attacks:
  suite: [{algorithm: grpo, seeds: [0]}]
policy: {name: mine, required_attacks: [grpo]}
"""
    lines = lines_of(text, "attacks.probe_prompts=300")

    assert [line.partition(": ")[0] for line in lines] == [
        "line 2, column 3",
        "line 3, column 47",
        "line 8, column 29",
        "line 6, column 3",
        "line 5, column 3",
        "--set attacks.probe_prompts",
    ]
    assert lines[0].endswith(": data.held_out_categories needs a file in harmful with a column category")
    assert lines[1].endswith(": defence.noiser.stop (0.5) must lie after start (0.5)")
    assert ": attacks.suite.0.seeds: grpo-0 has the seed of the defence" in lines[2]
    assert ": evaluation.temperature is 0.5; the policy wants 1 to 1" in lines[3]
    assert "policy.max_fine_tuning_drop asks for benign fine-tuning, but evaluation.fine_tuning is null" in lines[4]


def test_contradictions_of_one_section_are_told_together(tmp_path: Path) -> None:
    judge = "{kind: strongreject, endpoint: 'http://j', model: m, max_cost: 1, max_tokens: 3, max_completion_tokens: 3}"
    harness = "{tasks: [a, a], metric: {b: acc}}"
    assert [line.partition(": ")[0] for line in lines_of(f"evaluation: {{judge: {judge},\n harness: {harness}}}")] == [
        "line 1, column 74",
        "line 1, column 87",
        "line 2, column 12",
        "line 2, column 27",
    ]
    entry = "{policy: p.yaml, keys: [k.pub]}"
    text = (
        f"apiVersion: tokenbuncher/v1\naliases:\n  v3: {entry}\n  a.b: {entry}\n  B: {entry}\n  b: {entry}\n"
        "artifact_roots: [mlruns, 's3://']\n"
    )
    told = refused(GuardSettings, text, tmp_path)
    assert sorted(int(number) for number in re.findall(r"line (\d+)", told)) == [2, 3, 4, 7]


def test_contradictions_are_told_beside_wrong_fields_as_far_as_they_are_known() -> None:
    lines = lines_of("model: {dtype: bf16}\nattacks: {probe_prompts: 300}\ndata: {held_out_categories: 2, seed: x}")

    assert [line.partition(": ")[0] for line in lines] == [
        "line 1, column 9",
        "line 3, column 32",
        "line 3, column 8",
        "line 2, column 11",
    ]


def test_attacks_under_another_s_name_are_told_beside_those_that_stand_twice() -> None:
    lines = lines_of("attacks: {suite: [{algorithm: grpo, name: ppo}, {algorithm: sft}, {algorithm: sft}]}")

    assert any("attacks.suite.0.name ppo stands for that algorithm" in line for line in lines)
    assert any("attacks.suite has the same attack and seed twice: sft-1000" in line for line in lines)


def test_a_password_is_told_beside_what_else_is_wrong() -> None:
    first, second, third = lines_of(
        "model: {device: gpu}\noutput: {root: 'https://me:secret@host/x'}\ndata: {held_out_categories: 2}"
    )

    assert first.startswith("line 1, column 9: model.device")
    assert second.startswith("line 2, column 10: output.root: holds a password")
    assert third.startswith("line 3, column 8: data.held_out_categories")


@pytest.mark.parametrize(
    "text",
    [
        "attacks: {probe_prompts: 300}\ndata: {sizes: {safety: x}}",
        "attacks: {probe_prompts: 300}\ndata: {sizes: {saftey: 400}}",
        "attacks: {probe_prompts: 300}\ndata: {sizes: [400]}",
        "attacks: {suite: [{algorithm: grpo}, {algorithm: sft, steps: 3}], probe_every: x}\n"
        "policy: {name: x, required_attacks: [grpo]}",
        "attacks: {suite: [{algorithm: magic, name: hot}]}\npolicy: {name: x, required_attacks: [hot]}",
        "attacks: {suite: [{name: hot}]}\npolicy: {name: x, required_attacks: [hot]}",
        "data: {harmful: {path: x.csv}, look_alikes: smollm2, utility: 3}",
        "policy: {name: strict, confidence: 7}",
        "policy: {attack_limits: {min_steps: x}}",
        "defence: {recipe: papr, benign_prompts: 4}",
        "attacks: {suite: [{algorithm: grpo}, {algorithm: x, name: ppo}]}\npolicy: {name: x, required_attacks: [grpo]}",
    ],
)
def test_no_contradiction_with_a_wrong_field_is_made_up(text: str) -> None:
    assert len(lines_of(text)) == 1, lines_of(text)


def test_what_an_option_sets_is_told_by_the_option() -> None:
    with pytest.raises(UserError) as error:
        parse_spec("model: {dtype: bf16}", ["model.device=gpu", "attacks.suite.0.steps=x", "policy.min_prompts=500"])

    lines = str(error.value).splitlines()[1:]
    assert sorted(line.partition(": ")[0].strip() for line in lines) == [
        "--set attacks.suite.0.steps",
        "--set model.device",
        "--set policy.min_prompts",
        "--set policy.min_prompts",
        "line 1, column 9",
    ]
    with pytest.raises(UserError, match=r"--set policy\.min_prompts: policy\.min_prompts \(500\) is more than"):
        parse_spec("", ["policy.min_prompts=500"])


DOCUMENTS = {
    "a release spec": "name: chat\nmodel: {source: organism://}\nattacks: {break_at: 0.5}\n",
    "a policy": "apiVersion: tokenbuncher/v1\nname: mine\nmin_prompts: 50\nrequired_attacks: [ppo]\n",
    "the settings of a guard": "apiVersion: tokenbuncher/v1\naliases: {champion: {policy: p.yaml, keys: [k.pub]}}\n",
    "a placement": "images: {trainer: t:1}\nquarantine: {claim: q, path: /q}\n",
    "a Kubernetes manifest": "apiVersion: v1\nkind: Secret\nmetadata: {name: x}\n",
    "a configuration of accelerate": "compute_environment: LOCAL_MACHINE\ndistributed_type: FSDP\n",
    "the evidence of a stage": '{"kind": "attack", "spec": "x", "base": "y", "candidate": "z", "data": "d"}',
    "a registration": '{"name": "chat", "version": "1", "digest": "x", "files": [], "tracking_uri": "http://m"}',
    "an attestation": '{"payload": "x", "payloadType": "y", "signatures": []}',
    "the configuration of a model": '{"architectures": ["X"], "model_type": "x", "vocab_size": 3}',
}
OWN = {
    ReleaseSpec: "a release spec",
    PolicySpec: "a policy",
    GuardSettings: "the settings of a guard",
    Placement: "a placement",
}


@pytest.mark.parametrize("kind", DOCUMENTS)
@pytest.mark.parametrize("model", LOADERS, ids=lambda model: model.__name__)
def test_a_document_of_another_kind_is_told_as_such(model: type[Strict], kind: str, tmp_path: Path) -> None:
    if OWN[model] == kind:
        return
    message = refused(model, DOCUMENTS[kind], tmp_path)
    assert f": it is {kind}" in message
    assert "unknown field" not in message


def test_several_documents_in_one_file_are_told(tmp_path: Path) -> None:
    assert "manifests and compiled pipelines hold several" in refused(ReleaseSpec, "a: 1\n---\nb: 2\n", tmp_path)


def test_a_policy_without_its_version_is_told_what_to_write(tmp_path: Path) -> None:
    assert "write apiVersion: tokenbuncher/v1" in refused(PolicySpec, "min_prompts: 50\n", tmp_path)


@pytest.mark.parametrize(
    ("override", "steps"), [("attacks.suite.0.steps=70", 70), ("attacks.suite.0={algorithm: grpo, steps: 80}", 80)]
)
@pytest.mark.parametrize(
    "text", ["", "attacks: {suite: [{algorithm: grpo}, {algorithm: sft}]}\npolicy: {name: x, required_attacks: [grpo]}"]
)
def test_an_item_of_a_list_can_be_set(text: str, override: str, steps: int) -> None:
    spec = parse_spec(text, [override])

    assert spec.attacks.suite[0].steps == steps
    assert spec.attacks.suite[1:] == parse_spec(text).attacks.suite[1:]


@pytest.mark.parametrize("item", ["7", "-1", "x", "01234567"])
def test_an_item_that_is_not_there_is_told(item: str) -> None:
    with pytest.raises(UserError, match=rf"there is no item {item}; items are counted from 0, there are 0 to 6"):
        parse_spec("", [f"attacks.suite.{item}.steps=70"])


def test_an_item_that_an_alias_shares_is_set_alone() -> None:
    first, second = "algorithm: grpo, name: a, warm_up: &w {answers: benign}", "algorithm: sft, name: b, warm_up: *w"
    text = f"policy: {{name: x, required_attacks: [b]}}\nattacks: {{suite: [{{{first}}}, {{{second}}}]}}"
    with pytest.raises(UserError) as error:
        parse_spec(text, ["attacks.suite.0.warm_up.steps=x"])
    assert "attacks.suite.1.warm_up" not in str(error.value)


def test_a_part_of_a_text_cannot_be_set() -> None:
    with pytest.raises(UserError, match="harmful is 'organism' in the spec, which has no fields or items"):
        parse_spec("data: {harmful: organism}", ["data.harmful.path=x.csv"])


@pytest.mark.parametrize("path", sorted({".".join(map(str, path)) for model, path, _ in CASES if model is ReleaseSpec}))
@pytest.mark.parametrize("part", ["path", "0", "0.kind", "x.y"])
def test_whatever_is_set_within_a_field_is_taken_or_told(path: str, part: str) -> None:
    for text in ("data: {look_alikes: smollm2}", f"{ONE}\ndata: {{look_alikes: smollm2}}"):
        told = told_of(text, f"{path}.{part}=x.csv")
        assert not told or f"--set {path}" in told
        assert "line 1, column 1" not in told


def told_of(text: str, override: str) -> str:
    """The error of a spec with a field set; empty if there is none."""
    with pytest.raises((UserError, StopIteration)) as error:
        raise StopIteration(parse_spec(text, [override]))
    return "" if error.type is StopIteration else str(error.value)


def test_a_file_is_set_where_another_field_gives_the_default() -> None:
    spec = parse_spec("", ["data.look_alikes.path=x.csv", "data.benign_test.path=y.csv"])
    assert (spec.data.look_alikes.path, spec.data.benign_test.path) == ("x.csv", "y.csv")


ONE = "attacks: {suite: [{algorithm: grpo}]}\npolicy: {name: x, required_attacks: [grpo]}"


def test_an_item_of_a_list_within_a_list_can_be_set() -> None:
    assert parse_spec(ONE, ["attacks.suite.0.seeds.0=7"]).attacks.suite[0].seeds[0] == 7
    with pytest.raises(
        UserError, match=r"--set attacks\.suite\.0\.seeds\.0: attacks\.suite\.0\.seeds\.0: Input should be"
    ):
        parse_spec(ONE, ["attacks.suite.0.seeds.0=x"])


@pytest.mark.parametrize(
    "path",
    [
        "model.lora.target_modules.0",
        "evaluation.harness.tasks.0",
        "evaluation.judge.judges.0.kind",
        "evaluation.judge.harmful_labels.0",
        "attacks.reward.harmful_labels.0",
        "attacks.suite.0.seeds.9",
        "policy.waivers.0.rule",
    ],
)
def test_an_item_of_a_list_that_is_left_out_is_told(path: str) -> None:
    for text in ("", ONE):
        with pytest.raises(
            UserError, match=rf"^--set {re.escape(path)}: there is no item \d; items are counted from 0"
        ):
            parse_spec(text, [f"{path}=x"])


def test_what_is_missing_in_a_part_that_an_option_made_is_told_by_the_option() -> None:
    with pytest.raises(
        UserError, match=r"--set evaluation\.harness\.limit: evaluation\.harness\.tasks: Field required"
    ):
        parse_spec("name: chat", ["evaluation.harness.limit=3"])


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("name: x\nnull: 1\n", "line 2, column 1: null: "),
        ("name: x\n~: 1\n", "line 2, column 1: null: "),
        ("name: x\nmodel:\n  true: 1\n", "line 3, column 3: model.true: "),
        ("name: x\nFalse: 1\n", "line 2, column 1: false: "),
        ("name: x\n3: 1\n", "line 2, column 1: 3: "),
        ("data:\n  harmful: {path: x.csv, where: {null: 1}}\n", "line 2, column 34: data.harmful.where.null: "),
        ("attacks:\n  suite:\n  - {1: 2}\n", "line 3, column 6: attacks.suite.0.1: "),
    ],
)
def test_a_key_that_is_no_text_is_told_with_its_place(text: str, place: str) -> None:
    with pytest.raises(UserError) as error:
        parse_spec(text)
    assert place in str(error.value)
    assert "write it in quotes" in str(error.value)


def test_fields_of_a_policy_that_do_not_go_together_are_told_at_their_place(tmp_path: Path) -> None:
    text = "apiVersion: tokenbuncher/v1\nname: mine\nmin_control_harm: 0.04\n"
    assert "line 3, column 1: " in refused(PolicySpec, text, tmp_path)
    with pytest.raises(UserError, match="line 3, column 3: "):
        parse_spec("policy:\n  name: mine\n  min_control_harm: 0.04\n")


def patterns(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("pattern"), str):
            yield schema["pattern"]
        schema = list(schema.values())
    if isinstance(schema, list):
        for part in schema:
            yield from patterns(part)


@pytest.mark.parametrize("model", LOADERS)
def test_every_pattern_is_told_in_words(model: type[Strict]) -> None:
    assert set(patterns(model.model_json_schema())) <= set(PATTERNS)


def test_a_text_of_a_wrong_form_is_told_in_words() -> None:
    with pytest.raises(UserError, match=r"tracking\.alias: must begin with a letter.*\(given: '1x'\)"):
        parse_spec("tracking: {alias: 1x}")
    with pytest.raises(UserError, match=r"tracking\.model_name: must have .* no / and no :"):
        parse_spec("tracking: {model_name: a/b}")
