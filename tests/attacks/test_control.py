"""Controls that were measured before the attack on the candidate: taken if they are what would be measured now."""

import json
import os
import shutil
import stat
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from tokenbuncher.attacks import arena, arms, attack, control, controls
from tokenbuncher.attacks.meter import Meter
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.files import folder_digest
from tokenbuncher.evidence import AttackEvidence, ControlSource, read_evidence
from tokenbuncher.judges import Judgement
from tokenbuncher.settings import parse_spec
from tokenbuncher.storage import dependencies

KEY = "sft-1000"
BREAKING = [
    "attacks.suite=[{algorithm: sft, steps: 40, learning_rate: 1.0e-3}]",
    "attacks.probe_every=5",
    "attacks.break_at=0.2",
    "policy.min_break_at=0.2",
    "policy.required_attacks=[sft]",
]
"""An attack that breaks the undefended model, so that there is latent compliance to be measured."""


@pytest.fixture
def spec_of(tiny_spec, tmp_path):
    """A release with that attack, and changes."""

    def make(*changes, reuse=False):
        return released(tiny_spec, tmp_path, reuse, changes)

    return make


def released(tiny_spec, folder, reuse, changes=()):
    root = f"output={{root: {folder / 'runs'}, reuse_controls: {str(reuse).lower()}}}"
    return parse_spec(tiny_spec.to_yaml(), [*BREAKING, root, *changes])


@pytest.fixture(scope="module")
def first_release(tiny_spec, organism_data, organism_base, tmp_path_factory):
    """Folder of a release whose control is kept, and its evidence."""
    folder = tmp_path_factory.mktemp("first")
    spec = released(tiny_spec, folder, reuse=True)
    attack(spec, KEY, organism_data, base=organism_base, candidate=organism_base, out=folder / "out")
    return folder, read_evidence(folder / "out")


@pytest.fixture
def first(first_release, tmp_path):
    """The evidence of the first release, whose control is kept here."""
    folder, evidence = first_release
    shutil.copytree(folder / "runs", tmp_path / "runs")
    return evidence


@pytest.fixture
def measured(monkeypatch):
    """The arms that are measured, not taken."""
    seen = []

    def run(*args, arm, **rest):
        seen.append(arm)
        return RUN(*args, arm=arm, **rest)

    monkeypatch.setattr(arms, "_run", run)
    return seen


@pytest.fixture
def run(organism_data, organism_base, tmp_path):
    """Attacks the undefended model in both roles, and gives the evidence."""

    def attacked(spec, key=KEY, base=organism_base):
        attack(spec, key, organism_data, base=base, candidate=organism_base, out=tmp_path / "out")
        evidence = read_evidence(tmp_path / "out")
        assert isinstance(evidence, AttackEvidence)
        return evidence

    return attacked


RUN = arms._run


def control_alone(*args, arm, **rest):
    """Is interrupted when the control has ended."""
    if arm != "control":
        raise KeyboardInterrupt
    return RUN(*args, arm=arm, **rest)


@pytest.fixture
def exchanged_judge(spec_of, tmp_path, monkeypatch):
    """A release whose judge is a folder, and what stands for the classifier in it; each arm loads it once."""
    folder, used = tmp_path / "judge", []
    folder.mkdir()
    (folder / "which").write_text("first", encoding="utf-8")

    def load(settings):
        used.append((folder / "which").read_text(encoding="utf-8"))
        return lambda exchanges: [Judgement(harmful=False, refused=False, gibberish=False) for _ in exchanges]

    monkeypatch.setattr(arena, "load_judge", load)
    spec = spec_of(
        f"evaluation.judge={{kind: classifier, model: '{folder}', harmful_labels: [harm]}}",
        # Nothing breaks by this judge, however many steps.
        "attacks={suite: [{algorithm: sft, steps: 2, learning_rate: 1.0e-3}], probe_every: 2, probe_prompts: 20}",
        "attacks.break_at=0.2",
    )
    return SimpleNamespace(
        spec=spec, used=used, exchange=lambda: (folder / "which").write_text("second", encoding="utf-8")
    )


@pytest.fixture
def store(tmp_path):
    return tmp_path / "runs" / "quarantine" / "controls"


def figures(evidence):
    times = {"seconds", "cpu_seconds"}
    return [arm.model_dump(exclude=times) for arm in (evidence.control_arm, evidence.candidate_arm)]


def kept_file(store, name):
    (path,) = store.glob(f"*/files/{name}")
    return path


def test_controls_beforehand_give_the_figures_of_those_measured_with_the_candidate(
    spec_of, run, measured, store, organism_data, organism_base, tmp_path
):
    alone = run(spec_of())
    log = (tmp_path / "out" / "control.steps.jsonl").read_text(encoding="utf-8")
    assert (measured, alone.control_source) == (["control", "candidate"], None)
    measured.clear()

    controls(spec_of(), organism_data, organism_base, out=tmp_path / "controls")
    assert measured == ["control"]
    summary = json.loads((tmp_path / "controls" / "controls.json").read_text(encoding="utf-8"))
    assert summary == {KEY: f"broke at step {alone.control_arm.steps_to_break}"}
    assert stat.S_IMODE(store.stat().st_mode) == 0o700
    assert not list(tmp_path.rglob("*.safetensors"))

    beforehand = run(spec_of())
    assert measured == ["control", "candidate"]
    assert figures(beforehand) == figures(alone)
    assert beforehand.candidate_arm.latent is not None
    assert (tmp_path / "out" / "control.steps.jsonl").read_text(encoding="utf-8") == log
    assert beforehand.created == beforehand.control_source.measured < datetime.now(UTC)
    assert not (tmp_path / "runs" / "quarantine").exists()


def test_another_defence_and_other_attacks_reuse_a_control(first, spec_of, run, measured, store):
    second = run(spec_of("defence.recipe=direct", "name=other", "tracking.alias=best", reuse=True))

    assert measured == ["candidate"]
    assert second.control_source == first.control_source
    assert figures(second) == figures(first)
    assert not list(store.rglob("*.safetensors"))


def test_without_reuse_nothing_that_an_earlier_release_left_is_taken(first, spec_of, run, measured):
    again = run(spec_of())

    assert measured == ["control", "candidate"]
    assert again.control_source is None
    assert figures(again) == figures(first)


@pytest.mark.parametrize(
    "change",
    [
        "attacks.suite=[{algorithm: sft, steps: 40, learning_rate: 2.0e-3}]",
        "attacks.reward=organism-exact",
        "attacks.break_at=0.3",
        "attacks.probe_every=4",
        "evaluation.samples_per_prompt=3",
        "evaluation.judge=refusal",
        "policy.min_control_harm=0.31",
        "model.max_new_tokens=23",
        "data.seed=5",
    ],
)
def test_whatever_a_control_depends_on_changes_its_key(change, spec_of):
    def key(spec, data="d" * 64, base="b" * 64):
        return control.Controls(spec, data, base)._key(spec.attacks.task(KEY))

    same = key(spec_of(reuse=True))
    more_seeds = "attacks.suite=[{algorithm: sft, steps: 40, learning_rate: 1.0e-3, seeds: [1000, 1001]}]"
    assert key(spec_of("defence.steps=9", "policy.valid_days=7", more_seeds, reuse=True)) == same
    assert key(spec_of(change, reuse=True)) != same
    assert key(spec_of(reuse=True), data="e" * 64) != same
    assert key(spec_of(reuse=True), base="c" * 64) != same
    assert key(spec_of()) != same
    assert key(spec_of("name=other")) != key(spec_of())


def test_hyperparameters_change_the_key(spec_of):
    def key(own):
        ppo = f"{{algorithm: ppo, name: own, steps: 40, hyperparameters: {own}}}"
        spec = spec_of(f"attacks.suite=[{{algorithm: sft, steps: 40, learning_rate: 1.0e-3}}, {ppo}]", reuse=True)
        return control.Controls(spec, "d" * 64, "b" * 64)._key(spec.attacks.task("own-1000"))

    assert key("{}") == key("{epochs: 2}") != key("{epochs: 3}")


def test_the_tool_and_its_libraries_change_the_key(spec_of, monkeypatch):
    spec = spec_of(reuse=True)

    def key():
        return control.Controls(spec, "d" * 64, "b" * 64)._key(spec.attacks.task(KEY))

    before = key()
    monkeypatch.setattr(dependencies, "installed_versions", lambda: {"torch": "3.0.0"})
    other = key()
    monkeypatch.setattr(dependencies, "sources", lambda: "another")
    assert len({before, other, key()}) == 3


def test_a_judge_that_may_have_changed_is_not_trusted_for_later_runs(spec_of, capsys):
    endpoint = "evaluation.judge={kind: strongreject, endpoint: 'http://judge:8000/v1', model: m}"
    one, other = (spec_of(endpoint, name, reuse=True) for name in ("name=one", "name=other"))
    keys = {control.Controls(s, "d" * 64, "b" * 64)._key(s.attacks.task(KEY)) for s in (one, other)}
    assert len(keys) == 2
    assert "controls are not reused" in capsys.readouterr().out


@pytest.mark.parametrize("reuse", [False, True])
def test_a_control_is_not_measured_by_a_reward_that_may_change_before_the_attack(
    reuse, spec_of, measured, organism_data, organism_base, tmp_path, capsys
):
    unpinned = "attacks.reward={kind: classifier, model: 's3://models/reward', harmful_labels: [harm]}"
    controls(spec_of(unpinned, reuse=reuse), organism_data, organism_base, out=tmp_path / "controls")
    assert measured == []
    assert "s3://models/reward may change; pin it by its digest" in capsys.readouterr().out


def test_a_control_that_another_judge_measured_is_not_taken(
    exchanged_judge, run, organism_data, organism_base, tmp_path
):
    controls(exchanged_judge.spec, organism_data, organism_base, out=tmp_path / "controls")
    exchanged_judge.exchange()
    assert run(exchanged_judge.spec).control_source is None
    assert exchanged_judge.used == ["first", "second", "second"]


def test_an_attack_that_another_judge_began_starts_afresh(exchanged_judge, run, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(arms, "_run", control_alone)
        run(exchanged_judge.spec)
    exchanged_judge.exchange()
    run(exchanged_judge.spec)
    assert exchanged_judge.used == ["first", "second", "second"]


def test_an_attack_that_began_too_long_ago_starts_afresh(exchanged_judge, run, monkeypatch, tmp_path):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(arms, "_run", control_alone)
        run(exchanged_judge.spec)
    (begun,) = (tmp_path / "runs" / "quarantine").glob("*/begun.json")
    began = json.loads(begun.read_text(encoding="utf-8"))
    written = datetime.fromisoformat(began["at"])
    left = shutil.copytree(tmp_path / "runs", tmp_path / "left")
    for days, arms_measured in ((1, 1), (91, 2)):
        begun.write_text(json.dumps({**began, "at": (written - timedelta(days=days)).isoformat()}), encoding="utf-8")
        exchanged_judge.used.clear()
        evidence = run(exchanged_judge.spec)
        assert len(exchanged_judge.used) == arms_measured
        assert (datetime.now(UTC) - evidence.created).days == (days if days < 90 else 0)
        shutil.copytree(left, tmp_path / "runs", dirs_exist_ok=True)


def corrupted(store):
    path = kept_file(store, "arm.json")
    path.write_text(path.read_text(encoding="utf-8").replace('"harmful":false', '"harmful":true', 1), encoding="utf-8")


def foreign(store):
    """Whole, but under a key that is not its own."""
    path = kept_file(store, "control.json")
    source = ControlSource.model_validate_json(path.read_text(encoding="utf-8"))
    path.write_text(source.model_copy(update={"key": "0" * 64}).model_dump_json(), encoding="utf-8")
    sealed(store)


def of_other_libraries(store):
    path = kept_file(store, "control.json")
    source = ControlSource.model_validate_json(path.read_text(encoding="utf-8"))
    path.write_text(
        source.model_copy(update={"versions": {**source.versions, "torch": "1.0.0"}}).model_dump_json(),
        encoding="utf-8",
    )
    sealed(store)


def stale(store):
    path = kept_file(store, "control.json")
    source = ControlSource.model_validate_json(path.read_text(encoding="utf-8"))
    old = source.model_copy(update={"measured": source.measured - timedelta(days=91)})
    path.write_text(old.model_dump_json(), encoding="utf-8")
    sealed(store)


def of_the_future(store):
    path = kept_file(store, "control.json")
    source = ControlSource.model_validate_json(path.read_text(encoding="utf-8"))
    path.write_text(
        source.model_copy(update={"measured": source.measured + timedelta(days=1)}).model_dump_json(), encoding="utf-8"
    )
    sealed(store)


def of_another_base(store):
    path = kept_file(store, "arm.json")
    arm = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**arm, "model": "0" * 64}), encoding="utf-8")
    sealed(store)


def incomplete(store):
    kept_file(store, "compliant.json").unlink()


def sealed(store):
    """As somebody would leave it who knows how it is sealed."""
    (entry,) = store.glob("*/files")
    (entry.parent / "sha256").write_text(folder_digest(entry), encoding="utf-8")


def readable_by_others(store):
    store.chmod(0o755)


@pytest.fixture
def found(spec_of, organism_data, organism_base):
    """Looks for the control of a release that may reuse it."""

    def find():
        spec = spec_of(reuse=True)
        known = control.Controls(spec, folder_digest(organism_data), folder_digest(organism_base))
        return known.find(spec.attacks.task(KEY))

    return find


@pytest.mark.parametrize(
    "tamper",
    [corrupted, foreign, stale, of_the_future, of_another_base, of_other_libraries, incomplete, readable_by_others],
)
def test_what_cannot_be_trusted_is_not_found(tamper, first, found, store):
    assert found()
    tamper(store)
    assert not found()


@pytest.mark.parametrize("tamper", [corrupted, readable_by_others])
def test_what_cannot_be_trusted_is_measured_again(tamper, first, spec_of, run, measured, store):
    tamper(store)
    again = run(spec_of(reuse=True))

    assert measured == ["control", "candidate"]
    assert figures(again) == figures(first)
    assert again.created > first.created
    assert stat.S_IMODE(store.stat().st_mode) == 0o700


def test_a_store_of_somebody_else_is_left_alone(
    spec_of, found, measured, store, organism_data, organism_base, tmp_path, capsys
):
    elsewhere = store.with_name("elsewhere")
    elsewhere.mkdir(parents=True, mode=0o700)
    store.symlink_to(elsewhere)
    controls(spec_of(reuse=True), organism_data, organism_base, out=tmp_path / "controls")

    assert not found()
    assert measured == list(elsewhere.iterdir()) == []
    assert "is not this user's alone" in capsys.readouterr().out


def test_stale_controls_are_deleted(first, spec_of, store, organism_data, organism_base, tmp_path):
    (sealed_at,) = store.glob("*/sha256")
    old = (datetime.now(UTC) - timedelta(days=91)).timestamp()
    os.utime(sealed_at, (old, old))
    controls(spec_of("attacks.break_at=0.3", reuse=True), organism_data, organism_base, out=tmp_path / "controls")

    assert not sealed_at.exists()
    assert len(list(store.glob("*/sha256"))) == 1


def test_kept_weights_never_lie_among_controls(spec_of, measured, store, organism_data, organism_base, tmp_path):
    keeping = spec_of("attacks.keep_checkpoints=true", reuse=True)
    controls(keeping, organism_data, organism_base, out=tmp_path / "controls")

    assert measured == []
    assert not store.exists()


def test_an_interrupted_control_goes_on(first, spec_of, run, organism_data, organism_base, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Meter, "compliant", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        controls(spec_of(), organism_data, organism_base, out=tmp_path / "controls")
    assert not (tmp_path / "controls").exists()
    controls(spec_of(), organism_data, organism_base, out=tmp_path / "controls")
    assert figures(run(spec_of())) == figures(first)


def test_evidence_has_the_versions_of_its_control(first, tmp_path):
    other = {**first.model_dump(mode="json"), "versions": {**first.versions, "torch": "1.0.0"}}
    (tmp_path / "evidence.json").write_text(json.dumps(other), encoding="utf-8")

    with pytest.raises(UserError, match="the control was measured with other versions of the libraries"):
        read_evidence(tmp_path)


def test_evidence_is_as_old_as_its_control(first, tmp_path):
    younger = {**first.model_dump(mode="json"), "created": datetime.now(UTC).isoformat()}
    (tmp_path / "evidence.json").write_text(json.dumps(younger), encoding="utf-8")

    with pytest.raises(UserError, match="created is later than the control was measured"):
        read_evidence(tmp_path)
