"""How often a name was tried, counted by a real registry: neither folders, versions nor runs that go make it fewer."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.evidence_factory import changed, passing_release, release_spec
from tests.registry.conftest import Registered
from tokenbuncher.evidence import REGISTRATION_NAME, Tries, read_registration
from tokenbuncher.gate import gate
from tokenbuncher.registry import Refused, register
from tokenbuncher.registry.history import FILE_NAME, remember
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.verdict import Outcome


@pytest.fixture
def attacks(spec: ReleaseSpec, tmp_path: Path) -> Callable[[], list[Path]]:
    """Folders of attacks that were run anew each time."""
    made: list[int] = []

    def run() -> list[Path]:
        made.append(len(made))
        release = passing_release(spec).with_piece("grpo-1000", tool_version=f"0.{len(made)}")
        return release.write(tmp_path / f"attacks-{len(made)}")[0][:3]

    return run


@pytest.fixture
def tried(spec: ReleaseSpec, candidate: Path, tmp_path: Path) -> Callable[[list[Path]], Tries]:
    def tried(folders: list[Path]) -> Tries:
        found = register(spec, candidate, tmp_path / "registration", attacks=folders).tries
        assert found is not None
        return found

    return tried


def client(spec: ReleaseSpec) -> MlflowClient:
    return MlflowClient(spec.tracking_uri(), spec.tracking_uri())


def test_each_run_of_the_attacks_is_a_try(spec, tried, attacks) -> None:
    assert [tried(attacks()).earlier for _ in range(4)] == [0, 1, 2, 3]
    tags = [client(spec).get_model_version(spec.tracking.model_name, str(n)).tags for n in range(1, 5)]
    assert [each["tokenbuncher.tries"] for each in tags] == ["1", "2", "3", "4"]


def test_the_same_evidence_is_the_same_try(tried, attacks) -> None:
    first, second = attacks(), attacks()
    assert [tried(folders).earlier for folders in (first, first, second, second, first)] == [0, 0, 1, 1, 1]


def test_without_attacks_each_version_is_a_try(tried) -> None:
    assert [tried([]).earlier for _ in range(3)] == [0, 1, 2]


def test_of_another_model_nothing_is_counted(spec, candidate, attacks, tried, tmp_path) -> None:
    tried(attacks())
    other = changed(spec, tracking=changed(spec.tracking, model_name='another, it\'s "quoted"'[:14]))
    assert register(other, candidate, tmp_path / "other", attacks=attacks()).tries.earlier == 0


def test_a_name_with_a_quote_is_counted(spec, candidate, attacks, tmp_path) -> None:
    other = changed(spec, tracking=changed(spec.tracking, model_name="it's mine"))
    counted = [register(other, candidate, tmp_path / "other", attacks=attacks()).tries.earlier for _ in range(2)]
    assert counted == [0, 1]


def delete_versions(mlflow: MlflowClient, name: str) -> None:
    for version in ("1", "2"):
        mlflow.delete_model_version(name, version)


def delete_model(mlflow: MlflowClient, name: str) -> None:
    mlflow.delete_registered_model(name)


def rename_model(mlflow: MlflowClient, name: str) -> None:
    mlflow.rename_registered_model(name, f"{name}-old")


def delete_runs(mlflow: MlflowClient, name: str) -> None:
    for version in ("1", "2"):
        mlflow.delete_run(mlflow.get_model_version(name, version).run_id)


def delete_runs_and_model(mlflow: MlflowClient, name: str) -> None:
    delete_runs(mlflow, name)
    delete_model(mlflow, name)


def delete_tags(mlflow: MlflowClient, name: str) -> None:
    for version in ("1", "2"):
        found = mlflow.get_model_version(name, version)
        for tag in found.tags:
            mlflow.delete_model_version_tag(name, version, tag)
        for tag in mlflow.get_run(found.run_id).data.tags:
            if tag.startswith("tokenbuncher"):
                mlflow.delete_tag(found.run_id, tag)


def move_experiment(mlflow: MlflowClient, name: str) -> None:
    run = mlflow.get_run(mlflow.get_model_version(name, "1").run_id)
    mlflow.rename_experiment(run.info.experiment_id, f"moved-{name}")


@pytest.mark.parametrize(
    "hide",
    [delete_versions, delete_model, rename_model, delete_runs, delete_runs_and_model, delete_tags, move_experiment],
)
def test_what_is_deleted_or_renamed_was_tried_nevertheless(hide, candidate, tmp_path) -> None:
    spec = release_spec(tracking={"model_name": "hidden"}, output={"root": str(tmp_path / "runs")})
    for number in range(2):
        folders = passing_release(spec).with_piece("safety", tool_version=str(number)).write(tmp_path / str(number))[0]
        register(spec, candidate, tmp_path / "out", attacks=folders[number : number + 1])
    hide(client(spec), "hidden")
    assert register(spec, candidate, tmp_path / "out", attacks=[]).tries.earlier == 2


def test_the_parameters_of_a_run_cannot_be_changed(spec, tried, attacks) -> None:
    """The count stands on that."""
    own = tried(attacks()).evidence
    run = client(spec).get_model_version(spec.tracking.model_name, "1").run_id
    with pytest.raises(Exception, match=r"(?i)changing param values is not allowed|already logged"):
        client(spec).log_param(run, "tokenbuncher.try", "0" * 64)
    assert client(spec).get_run(run).data.params["tokenbuncher.try"] == own


def test_history_counts_where_the_registry_is_new(spec, candidate, attacks, tmp_path) -> None:
    spec = changed(spec, output=changed(spec.output, root=tmp_path / "runs"))
    folder = spec.output.root / spec.name
    folder.mkdir(parents=True)
    for number in range(3):
        release = passing_release(spec)
        made = changed(release.registration, tries=Tries(evidence=f"{number:064x}", earlier=0))
        remember(folder, changed(release.judge(), version=str(number)), made)
    folders = attacks()
    first = register(spec, candidate, tmp_path / "out", attacks=folders)
    assert first.tries.earlier == 3

    verdict = replace(passing_release(spec).about(first.digest), registration=first).judge()
    remember(folder, verdict, first)
    assert register(spec, candidate, tmp_path / "out", attacks=folders).tries.earlier == 3
    shutil.rmtree(folder)
    assert register(spec, candidate, tmp_path / "out", attacks=attacks()).tries.earlier == 1


def test_a_history_that_is_not_whole_is_doubted(spec, candidate, attacks, tmp_path) -> None:
    spec = changed(spec, output=changed(spec.output, root=tmp_path / "runs"))
    folder = spec.output.root / spec.name
    folder.mkdir(parents=True)
    (folder / FILE_NAME).write_text("nothing\n", encoding="utf-8")
    registration = register(spec, candidate, tmp_path / "out", attacks=attacks())
    assert registration.tries.earlier is None
    assert "is damaged" in registration.tries.doubt
    release = replace(passing_release(spec).about(registration.digest), registration=registration)
    assert release.judge().outcome is Outcome.PASS
    assert release.with_policy(max_tries=9).judge().outcome is Outcome.INCONCLUSIVE


def test_a_registration_that_counts_fewer_than_the_registry_moves_no_alias(
    spec: ReleaseSpec, enter: Callable[..., Registered]
) -> None:
    entered = [enter(spec) for _ in range(2)]
    entered[0].promote()
    path = entered[1].registration / REGISTRATION_NAME
    registration = read_registration(path)
    assert registration.tries.earlier == 1
    fewer = changed(registration, tries=changed(registration.tries, earlier=0))
    path.write_text(fewer.model_dump_json(), encoding="utf-8")
    gate(spec, entered[1].evidence, path, out=entered[1].verdict)
    with pytest.raises(
        Refused, match=r"counts 0 earlier tries of .*, and the registry 1; register the candidate again"
    ):
        entered[1].promote()
    assert entered[1].champion == "1"
    path.write_text(registration.model_dump_json(), encoding="utf-8")
    gate(spec, entered[1].evidence, path, out=entered[1].verdict)
    entered[1].promote()
    assert entered[1].champion == "2"


def test_a_version_that_was_counted_can_be_promoted_when_others_came_after(
    spec: ReleaseSpec, enter: Callable[..., Registered]
) -> None:
    first, second = enter(spec), enter(spec)
    first.promote()
    second.promote()
    assert second.champion == "2"


def test_over_http(mlflow_server: str, candidate: Path, tmp_path: Path) -> None:
    tracking = {"uri": mlflow_server, "model_name": "tried-over-http"}
    spec = release_spec(tracking=tracking, output={"root": str(tmp_path / "runs")})
    assert [register(spec, candidate, tmp_path / "out").tries.earlier for _ in range(3)] == [0, 1, 2]
