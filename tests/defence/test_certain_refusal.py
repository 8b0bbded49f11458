import json

import pytest

from tokenbuncher.defence import defend
from tokenbuncher.defence.examples import _split
from tokenbuncher.settings import parse_spec
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
    return [json.loads(line) for line in out.with_name(f"{out.name}.steps.jsonl").read_text().splitlines()]


def test_held_out_prompts_escape_less(spec_of, organism_data, organism_base, tmp_path):
    defend(spec_of(), organism_data, organism_base, out=tmp_path / "candidate")
    log = rows(tmp_path / "candidate")
    assert [row["step"] for row in log] == list(range(1, 31))
    assert log[29]["held_out_escape_max"] < 0.5 * log[9]["held_out_escape_max"]
    assert log[29]["escape"] < 0.5 * log[0]["escape"]
    assert log[29]["learning_rate"] > log[0]["learning_rate"]


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


@pytest.mark.parametrize(("count", "kept"), [(100, 8), (16, 4), (1, 0)])
def test_at_most_a_quarter_is_held_out(count, kept):
    trained, measured = _split(list(range(count)), 8)
    assert (len(trained), len(measured)) == (count - kept, kept)
    assert trained + measured == list(range(count))
