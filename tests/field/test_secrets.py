"""Passwords and tokens that people write into addresses: refused where they would be kept, and shown nowhere."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipelines.lint import read_ir
from pipelines.placement import load_placement
from tokenbuncher.cli import main
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.log import (
    JsonFormatter,
    LineHandler,
    StageFormatter,
    TextFormatter,
    event,
    logging_to,
    printed_as_messages,
)
from tokenbuncher.core.passwords import has_password, without_passwords
from tokenbuncher.gate import unfinished_figures
from tokenbuncher.guard.settings import load_guard
from tokenbuncher.preflight.doctor import Diagnosis
from tokenbuncher.settings import ComputeSpec, ReleaseSpec, load_spec, parse_spec
from tokenbuncher.settings.policy import load_policy
from tokenbuncher.storage import resolve
from tokenbuncher.training.cluster.trainjob import build_trainjob

SECRET = "hunter2"
ADDRESSES = [
    f"postgresql://me:{SECRET}@db/mlflow",
    f"postgresql+psycopg2://me:{SECRET}@db:5432/mlflow?sslmode=require",
    f"postgresql://me:{SECRET}%40%2F@db/mlflow",
    f"postgresql://me:{SECRET}/with@signs@db/mlflow",
    f"postgresql://db/mlflow?user=me&password={SECRET}",
    f"mysql+pymysql://me:{SECRET}@db/mlflow",
    f"mysql://:{SECRET}@db/mlflow",
    f"mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BUID%3Dme%3BPWD%3D{SECRET}",
    f"https://me:{SECRET}@mlflow.example",
    f"https://me:{SECRET}@mlflow.example:443/path",
    f"HTTPS://me:{SECRET}@mlflow.example",
    f"https:/me:{SECRET}@mlflow.example",
    f"https://{SECRET}@mlflow.example",
    f"https://mlflow.example/?token={SECRET}",
    f"https://mlflow.example/api?x=1&api_key={SECRET}",
    f"https://mlflow.example/#access_token={SECRET}",
    f"http://me:{SECRET}@[::1]:5000",
    f"postgresql://me:8/{SECRET}@db:5432/mlflow",
    f"mysql+pymysql://me:12345/{SECRET}@db/mlflow",
    f"postgresql://me:5432?{SECRET}@db/mlflow",
    f"postgresql://m?e:{SECRET}@db/mlflow",
    f"postgresql:/me:{SECRET}@db/mlflow",
    f"mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BUID%3Dme%3BPWD+%3D{SECRET}",
    f"mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3B%20PWD%20%3D+{SECRET}",
    f"mssql+pyodbc:///?odbc_connect=DRIVER%253Dx%253BPWD%253D{SECRET}",
    f"mssql+pyodbc:///?odbc_connect=UID%3Dx%3BPWD%3D%7Ba%3B{SECRET}%7D",
    *(f"https://mlflow.example/?x=1&{name}={SECRET}" for name in ("code", "jwt", "bearer", "Authorization", "session")),
    f"https://mlflow.example/?AWSAccessKeyId={SECRET}",
    f"https://mlflow.example/?password='{SECRET}'",
    f'https://mlflow.example/?password="{SECRET}"',
    f"https://mlflow.example/?password='a {SECRET}'",
    f"postgresql://db/mlflow?options=-c%20password%3D{SECRET}",
    f"https://me:{'x' * 900}{SECRET}@mlflow.example",
]


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Result]:
    """A command on a spec."""
    spec = tmp_path / "spec.yaml"
    spec.write_text("name: chat\n", encoding="utf-8")
    return lambda command, *options: CliRunner().invoke(main, [command, "--spec", str(spec), *map(str, options)])


@pytest.mark.parametrize("uri", ADDRESSES)
@pytest.mark.parametrize("command", ["run-local", "status", "plan"])
def test_a_password_in_tracking_uri_is_refused_and_not_repeated(
    command: str, uri: str, run: Callable[..., Result]
) -> None:
    result = run(
        command, "--set", f"tracking.uri={json.dumps(uri)}", *(["--dry-run"] if command == "run-local" else [])
    )

    assert result.exit_code == 2
    assert "tracking.uri: " in result.output
    assert "holds a password or token" in result.output
    assert SECRET not in result.output


def test_the_refusal_names_what_to_use_instead() -> None:
    for uri, advice in {
        f"https://me:{SECRET}@mlflow": "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
        f"postgresql://me:{SECRET}@db/mlflow": "PGPASSWORD or PGPASSFILE",
        f"mysql://me:{SECRET}@db/mlflow": "mlflow server --backend-store-uri",
    }.items():
        with pytest.raises(UserError, match=advice):
            parse_spec(f"tracking: {{uri: '{uri}'}}")


@pytest.mark.parametrize(
    "field",
    {
        "model.source": f"s3://key:{SECRET}@bucket/model",
        "model.adapter_base": f"hf://me:{SECRET}@org/name@main",
        "tracking.artifact_root": f"s3://key:{SECRET}@bucket/mlflow",
        "compute.storage": f"s3://key:{SECRET}@bucket/work",
        "compute.image": f"https://me:{SECRET}@registry/image",
        "data.harmful": {"path": f"s3://key:{SECRET}@bucket/prompts.csv"},
        "data.benign": {"path": f"https://host/prompts.csv?token={SECRET}"},
        "evaluation.judge": {"kind": "strongreject", "model": "m", "endpoint": f"https://me:{SECRET}@judge/v1"},
        "attacks.reward": {"kind": "strongreject", "model": "m", "endpoint": f"https://judge/v1?api_key={SECRET}"},
        "compute.accelerate": {"main_process_ip": f"tcp://me:{SECRET}@host"},
    }.items(),
    ids=lambda field: field[0],
)
def test_a_password_anywhere_in_a_spec_is_refused_and_not_repeated(field: tuple[str, object]) -> None:
    name, value = field
    with pytest.raises(UserError, match="is not a valid release spec") as refused:
        parse_spec("", ["data.look_alikes=smollm2", f"{name}={json.dumps(value)}"])

    assert name in str(refused.value)
    assert SECRET not in str(refused.value)


LONG = f"https://x-access-token:{SECRET}{'x' * 90}@github.com/org/name"


@pytest.mark.parametrize(
    "field",
    [
        *("name", "model.source", "model.device", "defence.recipe", "defence.steps", "defence", "attacks.suite"),
        *("tracking.uri", "tracking.artifact_root", "tracking.alias", "compute.image", "compute.accelerate"),
        *("compute.storage", "data.benign.path", "data.benign", "evaluation.calibration", "evaluation.judge.endpoint"),
        *("evaluation.judge", "output.root", "policy.name", "policy.min_prompts"),
    ],
)
@pytest.mark.parametrize("value", [LONG, f"https://me:{SECRET} pw'{'x' * 90}@host", [LONG], {"x": LONG}])
def test_a_long_value_with_a_password_is_masked_before_it_is_cut(field: str, value: object) -> None:
    with pytest.raises(UserError) as refused:
        parse_spec("", [f"{field}={json.dumps(value)}"])
    assert SECRET not in str(refused.value)

    document: object = value
    for part in reversed(field.split(".")):
        document = {part: document}
    with pytest.raises(UserError) as refused:
        parse_spec(json.dumps(document))
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("uri", ["svc:{}@db.corp:5432/mlflow", "//svc:{}@mlflow", ":{}@mlflow", "svc:a{} b@mlflow"])
def test_a_tracking_uri_without_its_scheme_shows_no_password(uri: str) -> None:
    with pytest.raises(UserError, match="is no tracking URI that can be used") as refused:
        parse_spec("", [f"tracking.uri={json.dumps(uri.format(SECRET))}"])
    assert SECRET not in str(refused.value)


def test_a_path_through_a_value_with_a_password_does_not_show_it() -> None:
    for value in (LONG, f"https://me:{SECRET}@host"):
        with pytest.raises(UserError, match="has no fields or items") as refused:
            parse_spec(f"model: {{source: '{value}'}}", ["model.source.x=1"])
        assert SECRET not in str(refused.value)
        with pytest.raises(UserError, match="no item") as refused:
            parse_spec("", [f"attacks.suite.99={value}"])
        assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        f"tracking:\n  uri: https://svc-release-gate-bot:{SECRET}@mlflow.corp: 5000\n",
        f"tracking: {{uri: https://me:{SECRET}@mlflow}}, x\n",
        f"tracking:\n  uri: 'https://me:{SECRET}@mlflow\n",
        f"a: *{SECRET}@\n",
        f"a: 1 # https://me:{SECRET}@mlflow\n b: 2\n",
        f"token: {SECRET}: x\n",
    ],
)
def test_a_yaml_error_tells_the_place_and_shows_no_text(text: str, tmp_path: Path) -> None:
    path = tmp_path / "document.yaml"
    path.write_text(text, encoding="utf-8")
    for load in (load_spec, load_policy, load_guard, load_placement, read_ir):
        with pytest.raises(UserError, match=r"is not YAML: line \d+, column \d+: ") as refused:
            load(path)
        assert SECRET not in str(refused.value) or text.startswith("a: *")


def test_a_cut_text_shows_no_password() -> None:
    for address in ADDRESSES:
        cut, host, _ = address.partition("@")
        if host and f"//{SECRET}" not in cut:
            assert SECRET not in without_passwords(f"at {cut}... it is down"), cut


def test_an_option_of_click_s_does_not_show_one(run: Callable[..., Result], tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["plan", "--spec", f"https://me:{SECRET}@host/spec.yaml"])
    assert result.exit_code == 2
    assert SECRET not in result.output
    result = CliRunner().invoke(main, ["plan", f"https://me:{SECRET}@host/spec.yaml"])
    assert result.exit_code == 2
    assert SECRET not in result.output


def test_addresses_without_a_password_are_left_alone() -> None:
    for address in (
        *("hf://org/name@main", "hf://gpt2@main", "models:/organism@champion", "s3://bucket/a:b@c"),
        *("http://host:5000/a@b", "http://[::1]:5000/a@b", "postgresql://me@db/mlflow?sslkey=/k&passfile=/p"),
        *("s3://bucket/x#sha256=ab", "https://host/list?tokens=5&keys=2"),
        *("mysql://u:@h/db", "postgresql://u@/db?host=h1:5432&host=h2:5432", "http://HOST:PORT, https://HOST"),
        *(
            "registry:5000/image@sha256:ab",
            "http://localhost:5000/path...",
            "http://localhost:5000...",
            "https://host/x?encode=1&passive=2",
        ),
        *("mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BTrusted_Connection%3Dyes", "postgresql+psycopg2://u@h:5432/d"),
    ):
        assert not has_password(address), address
        assert without_passwords(f"see {address}, it is there") == f"see {address}, it is there"


@pytest.mark.parametrize("uri", ADDRESSES)
def test_it_is_taken_out_of_whatever_is_told(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in (TextFormatter, StageFormatter, JsonFormatter):
        with logging_to(LineHandler(sys.stdout, kind("defend"))), printed_as_messages():
            print(f"going to {uri}")
            logging.getLogger("tokenbuncher.storage").info(f"at {uri}", extra=event("message", where=uri))
    shown = capsys.readouterr().out + str(UserError(f"no {uri} here")) + str(Diagnosis("ok", f"MLflow at {uri}"))
    assert SECRET not in shown
    assert "***" in shown


def test_it_is_taken_out_of_the_traceback_of_what_nobody_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(f"cannot open {ADDRESSES[0]}")

    monkeypatch.setattr("tokenbuncher.settings.init.write_spec", fail)
    result = CliRunner().invoke(main, ["init", "--model", "hf", "--out", "x.yaml"])

    assert "RuntimeError: cannot open postgresql://***@db/mlflow" in result.output
    assert SECRET not in result.output


def test_it_is_taken_out_of_the_report_of_a_run_that_failed(tmp_path: Path) -> None:
    figures = unfinished_figures(ReleaseSpec(), [tmp_path], f"register failed: {ADDRESSES[0]} is down")

    assert figures.reasons[0] == "register failed: postgresql://***@db/mlflow is down"


@pytest.mark.parametrize(
    "uri",
    [
        f"postgresql://me:{SECRET}@127.0.0.1:9/x",  # of a driver that is not installed
        f"postgresql+psycopg://me:{SECRET}@127.0.0.1:9/x",
        f"mysql+pymysql://me:{SECRET}@127.0.0.1:9/x",
        f"http://me:{SECRET}@127.0.0.1:9",
    ],
)
def test_one_in_mlflow_tracking_uri_is_not_shown(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 1)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserError) as refused:
        resolve("models:/organism@champion")

    assert SECRET not in str(refused.value)


def test_a_trainjob_does_not_show_one_of_the_environment() -> None:
    compute = ComputeSpec(kind="trainjob", storage="s3://bucket/work")
    with pytest.raises(UserError, match=r"\$AWS_ENDPOINT_URL holds a password") as refused:
        build_trainjob(
            compute,
            "defend",
            ["x"],
            arguments={},
            output="s3://b/o",
            environment={"AWS_ENDPOINT_URL": f"https://me:{SECRET}@s3"},
        )
    assert SECRET not in str(refused.value)


KEYS = ["sk-hunter2", "hf_hunter2", "ghp_hunter2", "github_pat_hunter2", "xoxb-hunter2", "$hunter2", "hunter2" * 4]


@pytest.mark.parametrize("key", KEYS)
def test_a_key_in_the_place_of_its_variable_s_name_is_refused_and_not_repeated(key: str) -> None:
    judge = {"kind": "strongreject", "model": "m", "endpoint": "https://host/v1"}
    for given in (key, [key], {"x": key}):
        for field in ("evaluation.judge", "attacks.reward"):
            with pytest.raises(UserError, match="key_env") as refused:
                parse_spec("", [f"{field}={json.dumps(judge | {'key_env': given})}"])
            assert SECRET not in str(refused.value)
    for path, value in {
        "evaluation.harness": [{"key_env": key}],
        "evaluation.judge.key_env.x": 1,
        "evaluation.judge": {"kind": "x", "key_env": key},
    }.items():
        with pytest.raises(UserError) as refused:
            parse_spec(json.dumps({"evaluation": {"judge": judge | {"key_env": key}}}), [f"{path}={json.dumps(value)}"])
        assert SECRET not in str(refused.value)


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "HF_TOKEN", "_key", "api_key", "Judge2", "A" * 40])
def test_the_name_of_a_variable_is_taken(name: str) -> None:
    judge = {"kind": "strongreject", "model": "m", "endpoint": "https://host/v1", "key_env": name}
    assert parse_spec("", [f"evaluation.judge={json.dumps(judge)}"]).evaluation.judge.key_env == name


@pytest.mark.parametrize("end", ["?code=hunter2", "?api-version=1", "#x"])
def test_an_endpoint_has_no_query(end: str) -> None:
    judge = {"kind": "strongreject", "model": "m", "endpoint": f"https://host/v1{end}"}
    with pytest.raises(UserError, match=r"endpoint: (holds a password|must begin with http)") as refused:
        parse_spec("", [f"evaluation.judge={json.dumps(judge)}"])
    assert SECRET not in str(refused.value)
