import hashlib
import json
import re
import shutil
from dataclasses import replace

import pytest

from tokenbuncher.core.errors import UserError
from tokenbuncher.defence import defend
from tokenbuncher.defence.examples import Models, _split, examples_of
from tokenbuncher.defence.held_out import measure, refused_by
from tokenbuncher.models.load import load_model
from tokenbuncher.models.tokenizer import load_tokenizer
from tokenbuncher.settings import RECIPES, parse_spec
from tokenbuncher.settings.leakage import places_among
from tokenbuncher.settings.prompts import load_manifest, load_set
from tokenbuncher.training.callbacks import StepLog


@pytest.fixture
def spec_of(tiny_spec, tmp_path):
    def make(where="runs", **changes):
        certain = {"mixed_prompts": 100, "benign_examples": 8, "held_out": 8, "probe_every": 10} | changes
        settings = {"recipe": "certain-refusal", "steps": 30, "prompts_per_step": 8, "certain_refusal": certain}
        return parse_spec(
            tiny_spec.to_yaml(),
            [f"defence={json.dumps(settings)}", "output.checkpoint_every=2", f"output.root={tmp_path / where}"],
        )

    return make


def rows(out):
    return [
        json.loads(line) for line in out.with_name(f"{out.name}.steps.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def test_no_mixed_prompt_is_like_one_that_attacks_or_measures(spec_of, organism_data, organism_base):
    spec = spec_of(mixed_prompts=400)
    model, tokenizer = load_model(organism_base, spec.model), load_tokenizer(organism_base)
    others = [name for name in load_manifest(organism_data).sets if name not in ("defence", "benign")]

    trained, held_out = examples_of(spec, Models(model, model, tokenizer), organism_data)

    made = [prompt for prompt, _ in (*trained.mixed, *held_out.mixed)]
    known = [prompt for name in others for prompt in load_set(organism_data, name)]
    assert made
    assert not places_among(made, known, spec.data.near_duplicate)
    assert not places_among(made, known, spec.data.near_duplicate, size=1)


def test_a_defence_with_more_prompts_is_measured_on_those_of_the_list_that_judges(
    spec_of, organism_data, organism_base
):
    spec = spec_of()
    sizes = spec.data.sizes.model_copy(update={"defence": 8, "more_harmful": 24})
    more = spec.model_copy(update={"data": spec.data.model_copy(update={"sizes": sizes})})
    model, tokenizer = load_model(organism_base, spec.model), load_tokenizer(organism_base)
    harmful = load_set(organism_data, "defence")

    trained, held_out = examples_of(more, Models(model, model, tokenizer), organism_data)

    assert [prompt for prompt, _ in trained.harmful] == harmful[:30]
    assert [prompt for prompt, _ in held_out.harmful] == harmful[30:]  # a quarter of its 8, and the last of all


def test_held_out_prompts_escape_less(spec_of, organism_data, organism_base, tmp_path):
    defend(spec_of(), organism_data, organism_base, out=tmp_path / "candidate")
    log = rows(tmp_path / "candidate")
    assert [row["step"] for row in log] == list(range(1, 31))
    assert log[29]["held_out_escape_max"] < 0.5 * log[9]["held_out_escape_max"]
    assert log[29]["escape"] < 0.5 * log[0]["escape"]
    assert log[29]["learning_rate"] > log[0]["learning_rate"]


def test_the_step_log_tells_what_the_defence_costs_and_what_bounds_it(
    spec_of, organism_data, organism_base, tmp_path, capsys
):
    spec = spec_of()
    defend(spec, organism_data, organism_base, out=tmp_path / "candidate")
    log, certain = rows(tmp_path / "candidate"), spec.defence.certain_refusal
    for row in log:
        costs = row["anchor_kl"] / certain.max_kl, row["refusal_mass"] / certain.max_refusal_mass
        assert row["constraint_usage"] == pytest.approx(max(costs))
        assert row["multiplier"] > 0
    measured = [row for row in log if "held_out_refusals_added" in row]
    assert [row["step"] for row in measured] == [1, 10, 20, 30]
    assert all(0 <= row["held_out_refusals_added"] <= 1 for row in measured)
    assert measured[0]["held_out_refusals_added"] == 0
    bounds = {"target": certain.target, "max_kl": certain.max_kl, "max_refusal_mass": certain.max_refusal_mass}
    assert all(row.items() >= bounds.items() for row in measured)
    assert re.search(r"30/30 .* held-out escape \S+  KL share \S+  refusals added \S+$", capsys.readouterr().out, re.M)


def test_refusals_are_added_where_the_base_model_does_not_refuse(spec_of, organism_data, organism_base):
    spec = spec_of()
    model, tokenizer = load_model(organism_base, spec.model), load_tokenizer(organism_base)
    models = Models(model, model, tokenizer)
    _, held_out = examples_of(spec, models, organism_data)
    harmful = [*held_out.harmful, *held_out.harmful][: len(held_out.benign)]
    refusing = replace(held_out, benign=[(prompt, "x") for prompt, _ in harmful])

    refused = refused_by(model, spec, models, held_out=refusing)
    assert all(refused[: len(harmful)])
    assert measure(spec, models, refusing, refused=refused).refusals_added == 0
    added = measure(spec, models, refusing, refused=[False] * len(refused)).refusals_added
    assert added == sum(refused) / len(refused) > 0


@pytest.mark.parametrize("recipe", ["certain-refusal", "none"])
def test_the_step_log_is_an_output_of_its_own(spec_of, organism_data, organism_base, tmp_path, recipe):
    spec = spec_of(target=0.9, max_kl=10.0, max_refusal_mass=1.0) if recipe != "none" else spec_without_defence(spec_of)
    (tmp_path / "log").mkdir()
    defend(spec, organism_data, organism_base, out=tmp_path / "candidate", steps=tmp_path / "log")
    written = (tmp_path / "log" / "defence.steps.jsonl").read_text(encoding="utf-8")
    assert [path.name for path in (tmp_path / "log").iterdir()] == ["defence.steps.jsonl"]
    assert written == ("" if recipe == "none" else (tmp_path / "candidate.steps.jsonl").read_text(encoding="utf-8"))
    assert bool(written) is (recipe != "none")


def test_a_place_for_the_step_log_that_is_taken_is_refused_first(spec_of, organism_data, organism_base, tmp_path):
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match=r"log"):
        defend(spec_of(), organism_data, organism_base, out=tmp_path / "candidate", steps=tmp_path / "log")
    assert not (tmp_path / "candidate").exists()


def spec_without_defence(spec_of):
    return parse_spec(spec_of().to_yaml(), ["defence={recipe: none}"])


def test_it_ends_by_itself_when_the_target_is_reached(spec_of, organism_data, organism_base, tmp_path, capsys):
    spec = spec_of(target=0.9, max_kl=10.0, max_refusal_mass=1.0)
    defend(spec, organism_data, organism_base, out=tmp_path / "candidate")
    assert [row["step"] for row in rows(tmp_path / "candidate")] == list(range(1, 11))
    assert "WARNING" not in capsys.readouterr().out


def test_it_says_what_it_could_not_reach(spec_of, organism_data, organism_base, tmp_path, capsys):
    defend(spec_of(max_kl=1e-9), organism_data, organism_base, out=tmp_path / "candidate")
    told = capsys.readouterr().out
    assert "WARNING: certain-refusal ended after 30 steps: 8 of 8 held-out harmful prompts escape with more" in told
    assert "nats, 1e-09 allowed" in told


def test_an_interrupted_defence_ends_with_the_figures_of_an_unbroken_one(
    spec_of, organism_data, organism_base, tmp_path, monkeypatch
):
    defend(spec_of("unbroken"), organism_data, organism_base, out=tmp_path / "unbroken-candidate")
    original = StepLog.on_log

    def interrupted(self, args, state, control, **kwargs):
        original(self, args, state, control, **kwargs)
        if state.global_step == 15:
            raise KeyboardInterrupt

    monkeypatch.setattr(StepLog, "on_log", interrupted)
    with pytest.raises(KeyboardInterrupt):
        defend(spec_of("broken"), organism_data, organism_base, out=tmp_path / "candidate")
    monkeypatch.setattr(StepLog, "on_log", original)
    defend(spec_of("broken"), organism_data, organism_base, out=tmp_path / "candidate")
    assert rows(tmp_path / "candidate") == rows(tmp_path / "unbroken-candidate")
    weights = [tmp_path / name / "model.safetensors" for name in ("candidate", "unbroken-candidate")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.parametrize(("count", "kept"), [(100, 8), (16, 4), (4, 1)])
def test_at_most_a_quarter_is_held_out(count, kept):
    trained, measured = _split(list(range(count)), 8, alike=count)
    assert (len(trained), len(measured)) == (count - kept, kept)
    assert trained + measured == list(range(count))


@pytest.mark.parametrize("name", ["defence", "benign"])
def test_too_few_prompts_are_refused_before_anything_is_sampled(spec_of, organism_data, organism_base, tmp_path, name):
    data = tmp_path / "data"
    shutil.copytree(organism_data, data)
    lines = (data / f"{name}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (data / f"{name}.jsonl").write_text("".join(lines[:3]), encoding="utf-8")
    manifest = json.loads((data / "manifest.json").read_text(encoding="utf-8"))
    digest = hashlib.sha256((data / f"{name}.jsonl").read_bytes()).hexdigest()
    manifest["sets"][name] |= {"count": 3, "sha256": digest}
    manifest["sets"][name] |= {key: manifest["sets"][name][key][:3] for key in ("ids", "tasks", "options")}
    (data / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(UserError, match=f"needs 4 prompts of set {name}, .*; there are 3: raise data.sizes.{name}"):
        defend(spec_of(), data, organism_base, out=tmp_path / "candidate")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ("{anchor: {examples: 8}}", "recipe certain-refusal, the default, has no anchor; name the recipe that they"),
        ("{entropy: loss}", "the default, has no entropy"),
        ("{benign_prompts: 2}", "the default, has no benign_prompts"),
        ("{certain_refusal: null}", "goes with recipe certain-refusal, and that recipe with it"),
        ("{recipe: certain-refusal, certain_refusal: null, entropy: loss}", "goes with recipe certain-refusal"),
        ("{recipe: log-entropy, certain_refusal: {}, entropy: null, anchor: null}", "goes with recipe certain-refusal"),
        ("{recipe: direct, entropy: null}", "null goes with recipe certain-refusal only"),
        ("{certain_refusal: {target: 1.0e-30}}", "greater than or equal to 0.0000000001"),
    ],
)
def test_what_does_not_go_together_is_refused(settings, told):
    with pytest.raises(UserError, match=re.escape(told)):
        parse_spec(f"defence: {settings}")


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_spec_with_any_recipe_reloads_as_itself(recipe):
    spec = parse_spec(f"defence: {{recipe: {recipe}}}")
    assert parse_spec(spec.to_yaml()) == spec
