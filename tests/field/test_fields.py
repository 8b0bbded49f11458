"""Values of a spec that are used late: what is taken at the start works at the end, and all else is refused at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.local import outline, run_local
from tests.guard.conftest import mariadb, postgresql  # noqa: F401
from tests.registry.conftest import Registered, candidate, enter, spec  # noqa: F401
from tokenbuncher.core.errors import UserError
from tokenbuncher.preflight import doctor
from tokenbuncher.preflight.doctor import diagnose
from tokenbuncher.registry import register, status
from tokenbuncher.settings import ReleaseSpec, parse_spec
from tokenbuncher.storage.tracking import connected

Enter = Callable[..., Registered]


def renamed(spec: ReleaseSpec, **tracking: object) -> ReleaseSpec:  # noqa: F811
    return parse_spec(spec.to_yaml(), [f"tracking.{field}={json.dumps(value)}" for field, value in tracking.items()])


@pytest.mark.parametrize("uri", ["sqlite:///mlflow.db", "sqlite:///new/folder/mlflow.db", "sqlite:///{folder}/a b.db"])
def test_mlflow_s_own_database_file_goes_through_every_stage(
    uri: str,
    spec: ReleaseSpec,  # noqa: F811
    enter: Enter,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("_MLFLOW_SERVER_ARTIFACT_ROOT", raising=False)  # of a server that ran in this process
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    spec = renamed(spec, uri=uri.format(folder=tmp_path))

    (tmp_path / "spec.yaml").write_text(spec.to_yaml(), encoding="utf-8")
    assert [finding for finding in diagnose(tmp_path / "spec.yaml") if finding.level == "problem"] == []
    registered = enter(spec)
    registered.promote()

    assert registered.champion == "1"
    assert "promoted" in status(spec)
    assert list(tmp_path.rglob("*.db")) == [Path(spec.tracking_uri().removeprefix("sqlite:///"))]


def test_a_relative_database_counts_from_the_working_folder_as_with_mlflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = parse_spec("tracking: {uri: 'sqlite:///mlflow.db'}")  # noqa: F811

    assert spec.tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    assert any(spec.tracking_uri() in line for line in outline(spec))


@pytest.mark.parametrize("folder", ["a?b", "a%20b", "%#é '&;["])
def test_an_output_root_of_any_name_holds_the_database(folder: str, candidate: Path, tmp_path: Path) -> None:  # noqa: F811
    spec = parse_spec("", [f"output.root={json.dumps(str(tmp_path / folder))}"])  # noqa: F811
    register(spec, candidate, tmp_path / "registration")

    assert (tmp_path / folder / "mlflow.db").is_file()
    assert "pending" in status(spec)


@pytest.mark.parametrize(
    ("uri", "advice"),
    {
        "localhost:5000": "write http://localhost:5000",
        "mlflow.example.com": "write http://mlflow.example.com",
        "mlflow:5000/path": "write http://mlflow:5000/path",
        "http:/host": "write http://host",
        "http:host:5000": "write http://host:5000",
        "http//host:5000": "write http://host:5000",
        "htp://host:5000": "write http://host:5000",
        "HTTP://host:5000": "write http://host:5000",
        "Https://host": "write https://host",
        " http://host:5000": "write http://host:5000",
        "http://host:5000 ": "write http://host:5000",
        "http://host:5000\n": "write http://host:5000",
        "http://ho st": "write http://ho",
        "http://host//": "write http://host",
        "http://host?x=1": "write http://host",
        "http://host/#/experiments/1": "write http://host",
        "http://": "write http://HOST:PORT",
        "http://host:port": "write http://HOST:PORT",
        "http://host:99999": "there is no port 99999",
        "file:///srv/mlruns": "write sqlite:////srv/mlruns/mlflow.db",
        "file:/srv/mlruns": "write sqlite:////srv/mlruns/mlflow.db",
        "file:": "MLflow keeps no registry in plain folders",
        "mlruns": "write sqlite:///mlruns/mlflow.db",
        "./mlruns": "write sqlite:///mlruns/mlflow.db",
        "/srv/mlruns": "write sqlite:////srv/mlruns/mlflow.db",
        "mlflow.db": "write sqlite:///mlflow.db",
        "SQLITE:///mlflow.db": "write sqlite:///mlflow.db",
        "sqlite:mlflow.db": "write sqlite:///mlflow.db",
        "sqlite:/srv/mlflow.db": "write sqlite:////srv/mlflow.db",
        "sqlite://mlflow.db": "write sqlite:///mlflow.db",
        "sqlite://": "it names no file",
        "sqlite:///": "it names no file",
        "sqlite:///folder/": "it names no file",
        "sqlite:///:memory:": "what is in memory ends with each stage",
        "sqlite:///~/mlflow.db": "only a shell expands",
        "sqlite:///mlflow.db?timeout=30": "write sqlite:///mlflow.db",
        "sqlite:///mlflow.db ": "write sqlite:///mlflow.db",
        "sqlite+pysqlite:///mlflow.db": "write sqlite:///mlflow.db",
        "postgres://me@db/mlflow": "write postgresql://me@db/mlflow",
        "postgresql://db": "write it as SCHEME://USER@HOST:PORT/DATABASE",
        "postgresql://me@h1:5432,h2:5432/db": "write postgresql://USER@/DATABASE?host=h1:5432&host=h2:5432",
        "postgresql://me@db/a@b": "write it as SCHEME://USER@HOST:PORT/DATABASE",
        "HTTPS://host": "write https://host",
        "databricks": "registries of Databricks are not supported",
        "databricks://profile": "registries of Databricks are not supported",
        "databricks-uc": "registries of Databricks are not supported",
        "s3://bucket/mlflow": "write http://HOST:PORT",
        "": "it is empty; leave it out",
        "  ": "it is empty; leave it out",
    }.items(),
)
def test_a_tracking_uri_that_no_stage_could_use_is_refused_with_what_was_meant(uri: str, advice: str) -> None:
    with pytest.raises(UserError, match="is no tracking URI that can be used") as refused:
        parse_spec("", [f"tracking.uri={json.dumps(uri)}"])
    assert advice in str(refused.value)


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_server_with_and_without_a_slash_at_its_end_goes_through_every_stage(
    slash: str,
    mlflow_server: str,
    spec: ReleaseSpec,  # noqa: F811
    enter: Enter,  # noqa: F811
) -> None:
    spec = renamed(spec, uri=mlflow_server + slash, model_name=f"slash{len(slash)}")
    registered = enter(spec)
    registered.promote()

    assert "promoted" in status(spec)


@pytest.mark.parametrize("database", ["postgresql", "mariadb"])
def test_a_database_without_a_password_goes_through_every_stage(
    database: str,
    spec: ReleaseSpec,  # noqa: F811
    enter: Enter,  # noqa: F811
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)  # MLflow keeps the files of a database's runs in the working folder
    monkeypatch.delenv("_MLFLOW_SERVER_ARTIFACT_ROOT", raising=False)  # of a server that runs in this process
    spec = renamed(spec, uri=request.getfixturevalue(database), model_name="it's in a database")
    assert [finding.level for finding in doctor._servers.check_mlflow(spec.tracking_uri())] == ["ok"]
    enter(spec).promote()

    assert "promoted" in status(spec)


@pytest.mark.parametrize(
    "uri",
    [
        "http://mlflow:5000",
        "https://mlflow.example/path",
        "http://[::1]:5000/",
        "postgresql://me@db/mlflow",
        "mysql://me:@db/mlflow",
        "postgresql://me@/db?host=h1:5432&host=h2:5432",
        "postgresql://me@h1,h2/db",
    ],
)
def test_a_tracking_uri_that_can_be_used_is_left_as_it_is(uri: str) -> None:
    assert parse_spec("", [f"tracking.uri={uri}"]).tracking_uri() == uri


@pytest.mark.parametrize("uri", ["localhost:5000", "./mlruns", "databricks"])
def test_mlflow_tracking_uri_is_held_to_the_same(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    problems = [str(finding) for finding in diagnose() if finding.level == "problem"]

    assert any(f"'{uri}' is no tracking URI that can be used" in problem for problem in problems)


def test_doctor_tells_of_a_database_whose_driver_is_missing_or_that_is_down() -> None:
    for uri, says in {
        "mysql+mysqldb://me@127.0.0.1:9/x": "install the driver of the database",
        "mysql+pymysql://me@127.0.0.1:9/x": "cannot be opened",
    }.items():
        (finding,) = doctor._servers.check_mlflow(uri)
        assert (finding.level, says in str(finding)) == ("problem", True)


def test_doctor_tells_of_a_database_whose_files_only_its_server_can_reach(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with connected(uri) as client:
        assert [finding.level for finding in doctor._servers.check_mlflow(uri)] == ["ok"]
        client.create_experiment("tokenbuncher", artifact_location="mlflow-artifacts:/1")

    (finding,) = doctor._servers.check_mlflow(uri)
    assert finding.level == "problem"
    assert "give the URL of that server" in str(finding)


def test_doctor_tells_of_a_database_file_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "mlflow.db", tmp_path):
        (finding,) = doctor._servers.check_mlflow(f"sqlite:///{place}")
        assert finding.level == "problem"


def test_doctor_asks_the_registry_of_a_source_beside_that_of_the_releases(
    mlflow_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text("model: {source: 'models:/chat@candidate'}\n", encoding="utf-8")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert any("where is models:/chat@candidate?" in str(finding) for finding in diagnose(path))

    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    told = "\n".join(map(str, diagnose(path)))
    assert f"ok       MLflow at {mlflow_server} shows its registry" in told


def test_doctor_tells_that_releases_do_not_go_to_mlflow_tracking_uri(
    mlflow_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text("name: chat\n", encoding="utf-8")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)

    assert any(f"set tracking.uri to {mlflow_server}" in str(finding) for finding in diagnose(path))


JUDGE = {"kind": "strongreject", "endpoint": "https://judge.example/v1", "model": "m", "key_env": "JUDGE_KEY"}


@pytest.mark.parametrize("field", ["evaluation.judge", "attacks.reward", "ensemble"])
def test_a_judge_whose_key_is_not_set_is_told_before_any_work(
    field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    given = {"kind": "ensemble", "judges": ["refusal", JUDGE]} if field == "ensemble" else JUDGE
    field = "evaluation.judge" if field == "ensemble" else field
    spec = parse_spec("", [f"{field}={json.dumps(given)}", f"output.root={tmp_path / 'runs'}"])  # noqa: F811

    with pytest.raises(UserError, match="the judge m needs a key: JUDGE_KEY is not set"):
        run_local(spec)
    assert not (tmp_path / "runs").exists()
    monkeypatch.setenv("JUDGE_KEY", "x")
    doctor.require_files(spec)


@pytest.mark.parametrize("content", [None, "", "no key"])
def test_a_signing_key_that_the_gate_could_not_use_is_told_before_any_work(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "release.pem"
    if content is not None:
        key.write_text(content, encoding="utf-8")
    monkeypatch.setenv("TOKENBUNCHER_SIGNING_KEY", str(key))
    spec = parse_spec("", [f"output.root={tmp_path / 'runs'}"])  # noqa: F811

    with pytest.raises(UserError, match=r"release\.pem"):
        run_local(spec)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("compute.namespace", "Team"),
        ("compute.namespace", "team-"),
        ("compute.namespace", "a" * 64),
        ("compute.attack_runtime", "my_runtime"),
        ("compute.secret", "Object Store"),
        ("compute.image", "trainer 1"),
        ("compute.image", ""),
        ("compute.storage", "s3://"),
        ("compute.storage", "s3:///work"),
        ("compute.storage", "s3://bucket//work"),
        ("compute.storage", "s3://buc ket/work"),
        ("compute.storage", "gs://bucket/work"),
        ("compute.resources.memory", "64K"),
        ("compute.resources.memory", "64 GB"),
        ("compute.resources.memory", "64GB"),
        ("compute.resources.cpu", "0.5m"),
        ("tracking.artifact_root", "mlruns"),
        ("tracking.artifact_root", "http://mlflow/artifacts"),
        ("tracking.artifact_root", "s3://"),
        ("evaluation.judge", {**JUDGE, "key_env": "$JUDGE_KEY"}),
        ("evaluation.judge", {**JUDGE, "key_env": "JUDGE-KEY"}),
        ("evaluation.judge", {**JUDGE, "key_env": ""}),
        ("evaluation.judge", {**JUDGE, "endpoint": "judge.example/v1"}),
    ],
)
def test_what_a_cluster_a_store_or_a_judge_would_refuse_late_is_refused_at_once(field: str, value: object) -> None:
    with pytest.raises(UserError, match=field.rpartition(".")[2]):
        parse_spec("", [f"{field}={json.dumps(value)}"])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("compute.storage", "s3://bucket"),
        ("compute.storage", "s3://bucket/work/"),
        ("compute.resources.memory", "64Gi"),
        ("compute.resources.memory", "1.5T"),
        ("compute.resources.cpu", "1500m"),
        ("compute.resources.cpu", "0.5"),
        ("tracking.artifact_root", "s3://bucket/mlflow/"),
        ("tracking.artifact_root", "mlflow-artifacts:/"),
        ("tracking.alias", "champion-2"),
    ],
)
def test_what_they_take_is_left_as_it_is(field: str, value: str) -> None:
    found = parse_spec("", [f"{field}={json.dumps(value)}"]).model_dump(mode="json")
    for part in field.split("."):
        found = found[part]
    assert found == value
