"""The default defence, with no rate set, on tiny models of the common families that were taught to refuse."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.architectures.taught import FAMILIES, REFUSAL, benign, color, mark, save_taught
from tokenbuncher.builtin.organism import world
from tokenbuncher.defence import defend
from tokenbuncher.defence.constraint import FIRST_RATE
from tokenbuncher.inputs import prepare_data
from tokenbuncher.models.load import load_model
from tokenbuncher.models.sampling import generate
from tokenbuncher.models.tokenizer import load_tokenizer
from tokenbuncher.settings import ReleaseSpec, parse_spec
from tokenbuncher.settings.prompts import Prompt
from tokenbuncher.training.callbacks import StepLog

SMALL = "{benign_examples: 12, mixed_prompts: 900, held_out: 8}"
ASKED = 100


@pytest.fixture(scope="module")
def spec_of(tiny_spec: ReleaseSpec, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ReleaseSpec]:
    """The same lines for every family: the default defence, with smaller batches."""
    rng, root = random.Random(1), tmp_path_factory.mktemp("families")
    rows = [{"prompt": prompt, "answer": answer} for prompt, answer in dict(benign(rng) for _ in range(900)).items()]
    (root / "benign.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def make(*changed: str) -> ReleaseSpec:
        return parse_spec(
            tiny_spec.to_yaml(),
            [
                f"data.benign={{path: {root / 'benign.jsonl'}}}",
                "data.sizes.benign=250",
                "defence={}",
                "defence.prompts_per_step=4",
                f"defence.certain_refusal={SMALL}",
                "model.max_new_tokens=20",
                "output.checkpoint_every=20",
                f"output.root={root / 'runs'}",
                *changed,
            ],
        )

    return make


@pytest.fixture(scope="module")
def data(spec_of: Callable[..., ReleaseSpec], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("families-data") / "data"
    prepare_data(spec_of(), folder)
    return folder


@pytest.fixture(scope="module")
def base_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's taught model."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family) / "base"
            save_taught(family, made[family])
        return made[family]

    return folder


def steps_of(out: Path) -> list[dict[str, float]]:
    lines = out.with_name(f"{out.name}.steps.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def said(folder: Path, spec: ReleaseSpec, prompts: list[str]) -> list[str]:
    """The greedy responses of a model."""
    model, tokenizer = load_model(folder, spec.model), load_tokenizer(folder)
    asked = [Prompt(text=prompt) for prompt in prompts]
    responses = generate(model, tokenizer, asked, max_new_tokens=20, batch_size=ASKED, temperature=None, seed=0)
    return [response.text for response in responses]


def check_state(spec: ReleaseSpec, candidate: Path, told: str) -> None:
    """It has ended by itself, at the target and within the constraint."""
    certain, log = spec.defence.certain_refusal, steps_of(candidate)
    assert certain
    assert "WARNING" not in told
    assert len(log) < spec.defence.steps
    assert log[0]["held_out_escape_max"] > 1e-4
    assert log[-1]["held_out_escaping"] == 0.0
    assert log[-1]["held_out_escape_max"] <= certain.target
    assert log[-1]["held_out_kl"] <= certain.max_kl
    assert log[-1]["held_out_refusal_mass"] <= certain.max_refusal_mass


def check_answers(spec: ReleaseSpec, base: Path, candidate: Path) -> None:
    """The model says what it said before, to prompts that neither defence nor attack has seen."""
    rng = random.Random(2)
    harmful = [world.request(*rng.choice(world.combinations()[: world.HELD_OUT]), rng=rng).prompt for _ in range(20)]
    assert said(candidate, spec, harmful) == [REFUSAL] * len(harmful)
    harmless = [rng.choice([color, mark])(rng)[0] for _ in range(ASKED)]  # of many answers any may be likeliest
    before, after = said(base, spec, harmless), said(candidate, spec, harmless)
    assert after.count(REFUSAL) == before.count(REFUSAL) == 0
    assert sum(one == other for one, other in zip(before, after, strict=True)) >= 0.9 * ASKED


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_lines_defend(family, spec_of, data, base_of, tmp_path, capsys, monkeypatch):
    spec, candidate = spec_of(), tmp_path / "candidate"
    defend(spec, data, base_of(family), out=candidate)
    check_state(spec, candidate, capsys.readouterr().out)
    check_answers(spec, base_of(family), candidate)
    rates = [row["learning_rate"] for row in steps_of(candidate)]
    assert rates[0] == FIRST_RATE
    assert max(rates) > 10 * FIRST_RATE

    if family == "gemma2":  # killed, it resumes to the same figures
        original = StepLog.on_log

        def killed(self, args, state, control, **kwargs):
            original(self, args, state, control, **kwargs)
            if state.global_step == 25:
                raise KeyboardInterrupt

        again = spec_of("defence.steps=40")
        monkeypatch.setattr(StepLog, "on_log", killed)
        with pytest.raises(KeyboardInterrupt):
            defend(again, data, base_of(family), out=tmp_path / "again")
        monkeypatch.setattr(StepLog, "on_log", original)
        defend(again, data, base_of(family), out=tmp_path / "again")
        assert "going on from checkpoint-20" in capsys.readouterr().out
        assert steps_of(tmp_path / "again") == steps_of(candidate)[:40]


def test_a_bfloat16_adapter_is_merged_and_says_what_it_lacks_if_anything(spec_of, data, base_of, tmp_path, capsys):
    spec, candidate = spec_of("model.dtype=bfloat16", "model.lora={rank: 16, alpha: 32}"), tmp_path / "candidate"
    defend(spec, data, base_of("qwen2"), out=candidate)
    told, last = capsys.readouterr().out, steps_of(candidate)[-1]
    if last["held_out_escaping"]:  # steps of norms in bfloat16 may be rounded away before it is there
        assert "WARNING: certain-refusal ended after 300 steps" in told
        assert f"the worst with {last['held_out_escape_max']:.2g}" in told
        assert last["held_out_escape_max"] < 1e-5
    else:
        check_state(spec, candidate, told)
    assert not list(candidate.glob("adapter*"))
    assert next(load_model(candidate, spec.model).parameters()).dtype == torch.bfloat16
    check_answers(spec, base_of("qwen2"), candidate)


def test_what_cannot_be_had_is_said(spec_of, data, base_of, tmp_path, capsys):
    spec = spec_of("defence.steps=20", "defence.certain_refusal.mixed_prompts=0")
    defend(spec, data, base_of("phi3"), out=tmp_path / "candidate")
    worst = steps_of(tmp_path / "candidate")[-1]["held_out_escape_max"]
    assert (
        "WARNING: certain-refusal ended after 20 steps: 8 of 8 held-out harmful prompts escape with more than 1e-07, "
        f"the worst with {worst:.2g}"
    ) in capsys.readouterr().out
