"""submit: the real kfp.Client against a server that holds every request against KFP's own swagger (kfp_stub.py)."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from pipelines import submit as submitting
from pipelines.compile import compile_pipeline
from pipelines.lint import lint
from pipelines.placement import Placement
from pipelines.submit import Server, read_token, submit, wait
from tests.evidence_factory import release_spec
from tests.pipelines.kfp_stub import SWAGGER, KfpStub, Request, Swagger, serving
from tokenbuncher.cli import main
from tokenbuncher.core.errors import UserError
from tokenbuncher.settings import ReleaseSpec, parse_spec

TOKEN = "tok-123-secret"
RUNNING = {
    "state": "RUNNING",
    "run_details": {
        "task_details": [
            {"task_id": "1", "display_name": "fetch-model", "state": "SUCCEEDED"},
            {"task_id": "2", "display_name": "defend", "state": "RUNNING"},
        ]
    },
}


@pytest.fixture
def kfp() -> Iterator[KfpStub]:
    with serving(KfpStub()) as stub:
        yield stub
    assert stub.problems == []


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(submitting, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(submitting, "compile_pipeline", compiled_once)
    monkeypatch.setattr(submitting.Client, "_LOCAL_KFP_CONTEXT", str(tmp_path / "no-context.json"))


COMPILED: dict[tuple[str, str], str] = {}


def compiled_once(name: str, path: Path, placement: Placement) -> None:
    """Compiles a pipeline; the same under the same placement is written again."""
    key = name, placement.model_dump_json()
    if key not in COMPILED:
        compile_pipeline(name, path, placement)
        COMPILED[key] = path.read_text(encoding="utf-8")
    path.write_text(COMPILED[key], encoding="utf-8")


@pytest.fixture
def spec() -> ReleaseSpec:
    return release_spec(name="chat-7", tracking={"uri": "http://mlflow:5000"})


@pytest.fixture
def run(kfp: KfpStub, spec: ReleaseSpec, tmp_path: Path) -> Callable[..., Result]:
    """`tokenbuncher submit`."""
    (tmp_path / "spec.yaml").write_text(spec.to_yaml(), encoding="utf-8")
    command = ["submit", "--spec", str(tmp_path / "spec.yaml"), "--host", kfp.host]
    return lambda *options: CliRunner().invoke(main, [*command, *map(str, options)])


@pytest.mark.skipif(not SWAGGER.exists(), reason=f"KFP's swagger is not at {SWAGGER}; requests are not held against it")
def test_the_stub_finds_what_the_api_does_not_have() -> None:
    swagger = Swagger(yaml.safe_load(SWAGGER.read_text(encoding="utf-8")))

    def problems(method: str, path: str, query: dict[str, str], body: Any) -> list[str]:
        return list(swagger.problems(Request(method, f"/apis/v2beta1/{path}", query, {}, body), 404, None))

    good = {"display_name": "x", "experiment_id": "1", "runtime_config": {"parameters": {"spec": "y"}}}
    assert problems("POST", "runs", {}, good) == []
    assert problems("POST", "runs", {}, {**good, "name": "x"}) == ["body of /apis/v2beta1/runs has no field name"]
    assert problems("POST", "runs", {}, {**good, "state": "DONE"})
    assert problems("POST", "runs", {}, {**good, "display_name": 3})
    assert problems("GET", "healthz", {"q": "x"}, None) == ["no query parameter q of /apis/v2beta1/healthz"]
    assert problems("PUT", "runs", {}, good) == ["no operation PUT /apis/v2beta1/runs"]
    assert problems("POST", "pipelines/upload", {"name": "x"}, {"file": ""})


def test_run(run: Callable[..., Result], kfp: KfpStub, spec: ReleaseSpec) -> None:
    result = run()

    assert result.exit_code == 0, result.output
    assert result.output == f"{kfp.host}/#/runs/details/runs-1\n"
    (upload,) = kfp.asked("POST", "/pipelines/upload")
    assert lint(list(yaml.safe_load_all(upload.body["uploadfile"]))) == []
    (experiment,) = kfp.asked("POST", "/experiments")
    assert experiment.body["display_name"] == "tokenbuncher"
    (created,) = kfp.asked("POST", "/runs")
    assert created.body["display_name"] == "chat-7"
    assert created.body["experiment_id"] == "experiments-1"
    assert created.body["pipeline_version_reference"] == {
        "pipeline_id": "pipelines-1",
        "pipeline_version_id": "versions-1",
    }
    assert parse_spec(created.body["runtime_config"]["parameters"]["spec"]) == spec
    assert kfp.requests[0].path.endswith("/healthz")


def test_a_dry_run_sends_nothing(run: Callable[..., Result], kfp: KfpStub) -> None:
    result = run("--dry-run", "--recurring", "0 0 3 * * 1")

    assert result.exit_code == 0, result.output
    assert result.output == (
        f"would run the release pipeline as chat-7 in experiment tokenbuncher at {kfp.host}; nothing was sent\n"
    )
    assert [(request.method, request.path.rpartition("/")[2]) for request in kfp.requests] == [("GET", "healthz")]


@pytest.mark.parametrize(
    "options", [["--recurring", "daily"], ["--set", "tracking.uri=null"], ["--host", "http://127.0.0.1:9"]]
)
def test_a_dry_run_refuses_what_a_run_refuses(options: list[str], run: Callable[..., Result]) -> None:
    dry, wet = run("--dry-run", *options), run(*options)

    assert (dry.exit_code, dry.stderr) == (wet.exit_code, wet.stderr)
    assert dry.exit_code == 2


def test_names(run: Callable[..., Result], kfp: KfpStub) -> None:
    assert run("--experiment", "safety", "--name", "tonight").exit_code == 0

    assert kfp.asked("POST", "/experiments")[0].body["display_name"] == "safety"
    assert kfp.asked("POST", "/runs")[0].body["display_name"] == "tonight"


@pytest.mark.parametrize("options", [[], ["--dry-run"]], ids=["run", "dry run"])
def test_attacked_weights_are_not_kept_where_outputs_are_uploaded(
    options: list[str], run: Callable[..., Result], kfp: KfpStub
) -> None:
    result = run("--set", "attacks.keep_checkpoints=true", *options)

    assert result.exit_code == 2
    assert result.stderr.startswith("error: attacks.keep_checkpoints: attacked weights must not leave the quarantine")
    assert kfp.requests == []


@pytest.mark.parametrize("root", ["elsewhere", "/data/runs", "runs/deeper"])
def test_a_quarantine_where_no_attack_writes_is_refused(
    root: str, run: Callable[..., Result], kfp: KfpStub, tmp_path: Path
) -> None:
    (tmp_path / "placement.yaml").write_text("quarantine: {claim: q, path: /work/runs/quarantine}", encoding="utf-8")
    result = run("--placement", tmp_path / "placement.yaml", "--set", f"output.root={root}")

    assert result.exit_code == 2
    assert "quarantine.path of the placement is /work/runs/quarantine, but attacks keep" in result.stderr
    assert kfp.requests == []


def test_overrides_policy_and_placement_are_submitted(run: Callable[..., Result], kfp: KfpStub, tmp_path: Path) -> None:
    (tmp_path / "placement.yaml").write_text(
        "stages: {attack: {accelerator: {count: 3}}}\nall: {timeout: 77}", encoding="utf-8"
    )
    (tmp_path / "policy.yaml").write_text(
        "apiVersion: tokenbuncher/v1\nname: other\nrequired_attacks: [grpo]", encoding="utf-8"
    )

    result = run(
        "--placement", tmp_path / "placement.yaml", "--policy", tmp_path / "policy.yaml", "--set", "name=other-name"
    )

    assert result.exit_code == 0, result.output
    pipeline, platform = yaml.safe_load_all(kfp.asked("POST", "/pipelines/upload")[0].body["uploadfile"])
    attack = pipeline["deploymentSpec"]["executors"]["exec-attack"]["container"]
    assert attack["resources"]["accelerator"]["count"] == "3"
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert {pod["activeDeadlineSeconds"] for pod in pods.values()} == {"77"}
    submitted = parse_spec(kfp.asked("POST", "/runs")[0].body["runtime_config"]["parameters"]["spec"])
    assert (submitted.name, submitted.policy.name) == ("other-name", "other")


def test_what_was_uploaded_is_not_uploaded_again(kfp: KfpStub, spec: ReleaseSpec) -> None:
    other = Placement.model_validate({"all": {"timeout": 5}})
    for placement in (Placement(), Placement(), Placement(), other, other):
        submit(spec, placement, Server(kfp.host), experiment="e", name="n")

    assert len(kfp.asked("POST", "/pipelines/upload")) == 1
    assert len(kfp.asked("POST", "/pipelines/upload_version")) == 2
    assert len(kfp.asked("POST", "/experiments")) == 1
    versions = [body["pipeline_version_reference"]["pipeline_version_id"] for body in kfp.things["runs"]]
    assert versions == ["versions-1", "versions-2", "versions-2", "versions-3", "versions-3"]


@pytest.mark.parametrize(("final", "status"), [("SUCCEEDED", 0), ("FAILED", 1), ("CANCELED", 1), ("SKIPPED", 1)])
def test_wait_shows_progress_and_ends_as_the_run_does(
    final: str, status: int, run: Callable[..., Result], kfp: KfpStub
) -> None:
    failed = {"error": {"code": 2, "message": "promote refused"}} if final == "FAILED" else {}
    kfp.states = [{"state": "PENDING"}, RUNNING, RUNNING, {"state": final, **failed}]

    result = run("--wait")

    assert result.exit_code == status, result.output
    told = [line.split()[2:] for line in result.output.splitlines()[1:]]
    assert told[:5] == [
        ["the", "run", "PENDING"],
        ["fetch-model", "SUCCEEDED"],
        ["defend", "RUNNING"],
        ["the", "run", "RUNNING"],
        ["the", "run", final],
    ]
    assert ("promote refused" in result.output) is bool(failed)


def test_wait_outlasts_a_hiccup(run: Callable[..., Result], kfp: KfpStub) -> None:
    kfp.failures["/runs/runs-1"] = [(503, "busy")] * (submitting.MISSES - 1)

    assert run("--wait").exit_code == 0


def test_wait_gives_up_and_says_that_the_run_goes_on(kfp: KfpStub, spec: ReleaseSpec) -> None:
    submitted = submit(spec, Placement(), Server(kfp.host), experiment="e", name="n")
    kfp.failures["/runs/runs-1"] = [(503, "busy")] * submitting.MISSES

    with pytest.raises(UserError, match=rf"503: busy.*goes on, unwatched: {submitted.url}"):
        wait(Server(kfp.host), submitted.id)


def test_interrupted_wait_leaves_the_run(
    run: Callable[..., Result], kfp: KfpStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    kfp.states = [RUNNING]

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupt)
    result = run("--wait")

    assert result.exit_code == 130
    assert f"interrupted; the run goes on: {kfp.host}/#/runs/details/runs-1" in result.output


def test_recurring(run: Callable[..., Result], kfp: KfpStub, spec: ReleaseSpec) -> None:
    result = run("--recurring", "0 0 3 * * 1")

    assert result.output == f"{kfp.host}/#/recurringrun/details/recurringruns-1\n"
    (created,) = kfp.asked("POST", "/recurringruns")
    assert created.body["trigger"] == {"cron_schedule": {"cron": "0 0 3 * * 1"}}
    assert created.body["mode"] == "ENABLE"
    assert created.body["no_catchup"] is True
    assert parse_spec(created.body["runtime_config"]["parameters"]["spec"]) == spec
    assert kfp.asked("POST", "/runs") == []


def test_token_is_sent_and_never_printed(run: Callable[..., Result], kfp: KfpStub, tmp_path: Path) -> None:
    kfp.token = TOKEN
    (tmp_path / "token").write_text(f"{TOKEN}\n", encoding="utf-8")

    result = run("--token-file", tmp_path / "token", "--wait")

    assert result.exit_code == 0, result.output
    assert {request.headers["authorization"] for request in kfp.requests} == {f"Bearer {TOKEN}"}
    assert TOKEN not in result.output
    assert TOKEN not in repr(Server(kfp.host, TOKEN))


@pytest.mark.parametrize("token", [None, "tok-wrong"])
def test_wrong_token(token: str | None, run: Callable[..., Result], kfp: KfpStub, tmp_path: Path) -> None:
    kfp.token = TOKEN
    (tmp_path / "token").write_text(token or "", encoding="utf-8")

    result = run(*(["--token-file", tmp_path / "token"] if token else []))

    assert result.exit_code == 2
    assert f"error: {kfp.host} answered 401: not authenticated" in result.output
    assert "give a token that is valid by --token-file" in result.output
    assert "tok-wrong" not in result.output
    assert len(kfp.requests) == 1


def test_namespace(run: Callable[..., Result], kfp: KfpStub) -> None:
    kfp.multi_user = True
    result = run()
    assert result.exit_code == 2
    assert "say whose run it is by --namespace" in result.output
    assert kfp.asked("POST", "") == []

    assert run("--namespace", "safety").exit_code == 0
    assert kfp.asked("POST", "/experiments")[0].body["namespace"] == "safety"
    assert kfp.asked("POST", "/pipelines/upload")[0].query["namespace"] == "safety"


@pytest.mark.parametrize("path", ["/healthz", "/pipelines", "/pipelines/upload", "/experiments", "/runs"])
@pytest.mark.parametrize(("status", "advice"), [(500, "log tells more"), (403, "ask for the right"), (404, "host")])
def test_refusal_at_any_point(
    path: str, status: int, advice: str, kfp: KfpStub, spec: ReleaseSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submitting, "compile_pipeline", _small_pipeline)
    kfp.failures[path] = [(status, "out of order")]

    with pytest.raises(UserError, match=f"answered {status}: out of order; .*{advice}"):
        submit(spec, Placement(), Server(kfp.host), experiment="e", name="n")
    assert kfp.things["runs"] == []


def _small_pipeline(_: str, path: Path, __: Placement) -> None:
    root = {"inputDefinitions": {"parameters": {"spec": {"parameterType": "STRING"}}}}
    path.write_text(yaml.safe_dump({"pipelineInfo": {"name": "small"}, "root": root}), encoding="utf-8")


def test_server_down(spec: ReleaseSpec, slept: list[float]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        host = f"http://127.0.0.1:{unused.getsockname()[1]}"

    with pytest.raises(UserError, match=rf"{host} cannot be reached: .*refused; is it up"):
        submit(spec, Placement(), Server(host), experiment="e", name="n")
    assert sum(slept) < 15


def test_login_page_is_no_answer(kfp: KfpStub, spec: ReleaseSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kfp, "answer", lambda _: (200, "<html>Log in</html>"))

    with pytest.raises(UserError, match="does not answer as Kubeflow Pipelines does; log in"):
        submit(spec, Placement(), Server(kfp.host), experiment="e", name="n")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--set", "tracking.uri=null"], "tasks on Kubeflow share no disk; name an MLflow server"),
        (["--set", "tracking.uri=sqlite:///mlflow.db"], "tasks on Kubeflow share no disk"),
        (
            ["--set", "tracking.uri=http://me:hunter2@mlflow"],
            "tracking.uri: http://***@mlflow holds a password or token",
        ),
        (["--set", "attacks.steps=3"], "attacks.steps: unknown field"),
        (["--recurring", "0 3 * * 1"], "'0 3 * * 1' has not 6 fields"),
        (["--recurring", "0 0 3 * * 1", "--wait"], "--wait waits for a run's end"),
        (["--host", "kubeflow.example"], "host kubeflow.example must begin with http"),
    ],
)
def test_wrong_arguments_are_refused_before_any_request(
    options: list[str], says: str, run: Callable[..., Result], kfp: KfpStub
) -> None:
    result = run(*options)

    assert result.exit_code == 2
    assert says in result.output
    assert "hunter2" not in result.output
    assert kfp.requests == []


def test_unsound_placement_is_refused_before_any_request(
    run: Callable[..., Result], kfp: KfpStub, tmp_path: Path
) -> None:
    (tmp_path / "placement.yaml").write_text("all: {env: {MLFLOW_TRACKING_PASSWORD: hunter2}}", encoding="utf-8")

    result = run("--placement", tmp_path / "placement.yaml")

    assert result.exit_code == 2
    assert "gives MLFLOW_TRACKING_PASSWORD a literal value" in result.output
    assert "hunter2" not in result.output
    assert kfp.requests == []


@pytest.mark.parametrize("text", ["", " \n", "two words", "a\nb"])
def test_token_file_holds_one_word(text: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(text, encoding="utf-8")

    with pytest.raises(UserError, match="must hold the token and nothing else"):
        read_token(tmp_path / "token")


@pytest.mark.parametrize("command", ["submit", "compile"])
def test_help_imports_no_kfp(command: str) -> None:
    probe = (
        "import sys\n"
        "from tokenbuncher.cli import main\n"
        f"main([{command!r}, '--help'], standalone_mode=False)\n"
        "sys.exit('kfp' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, check=False).returncode == 0
