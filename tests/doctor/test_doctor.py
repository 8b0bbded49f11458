"""The doctor, with real servers, with none, and with those that refuse, are late or are something else."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from tests.doctor.kubernetes_stub import cluster
from tests.guard.conftest import mlflow_server as guarded_server
from tests.guard.conftest import write_guard
from tests.pipelines.kfp_stub import KfpStub, serving
from tests.storage.faulty_proxy import Proxy, hang_up
from tokenbuncher.cli import main
from tokenbuncher.preflight import doctor
from tokenbuncher.preflight.doctor import Diagnosis, _machine, _servers, diagnose
from tokenbuncher.preflight.doctor._diagnosis import SECRETS, ok
from tokenbuncher.settings.init import write_spec

CLOSED = "http://127.0.0.1:9"
"""Where nothing listens."""


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment that names no server and has an empty home."""
    for name in (*SECRETS, *_servers.S3_VARIABLES, "AWS_DEFAULT_REGION", "MLFLOW_TRACKING_URI", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nosuch"))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "nosuch"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def web_page(tmp_path: Path) -> Iterator[str]:
    """A server that shows a page whatever is asked, as a login does."""
    (tmp_path / "page").mkdir()
    page = tmp_path / "page" / "index.html"
    page.write_text("<html>log in</html>", encoding="utf-8")

    class Handler(SimpleHTTPRequestHandler):
        def translate_path(self, path: str) -> str:
            return str(page)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def spec_file(folder: Path, text: str = "name: try") -> Path:
    path = folder / "spec.yaml"
    path.write_text(f"{text}\noutput: {{root: {folder / 'runs'}}}\n", encoding="utf-8")
    return path


def found(findings: Iterator[Diagnosis], word: str) -> list[str]:
    return [str(finding) for finding in findings if word in finding.what]


def wrong(findings: Iterable[Diagnosis]) -> list[str]:
    """What is not well, apart from extras that are left out: which of them are here is the installation's choice."""
    return [str(finding) for finding in findings if finding.level != "ok" and " lacks " not in finding.what]


def levels(findings: Iterator[Diagnosis]) -> list[str]:
    return [finding.level for finding in findings]


def test_nothing_is_wrong_with_the_organism_here(tmp_path: Path) -> None:
    path = spec_file(tmp_path)
    result = CliRunner().invoke(main, ["doctor", "--spec", str(path)])

    assert "problem" not in result.output
    assert result.exit_code == 0
    assert f"ok       {path} is a valid release spec\n" in result.output
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / ".cache").exists()


def test_files_that_the_spec_names_are_looked_for(tmp_path: Path) -> None:
    (tmp_path / "a folder").mkdir()
    (tmp_path / "prompts.csv").write_text("prompt", encoding="utf-8")
    there = (
        f"model: {{source: 'file://{tmp_path}/a%20folder'}}\n"
        f"data: {{harmful: {{path: {tmp_path}/prompts.csv}}, utility: {{path: 's3://bucket/questions.csv'}}, "
        "look_alikes: smollm2}\n"
    )
    assert found(diagnose(spec_file(tmp_path, there)), "files:") == [
        "ok       files: 2 are named in the spec, and are there"
    ]
    judges = "[{kind: classifier, model: nosuch, harmful_labels: [a]}, refusal]"
    missing = (
        "model: {source: prompts.csv}\n"
        f"data: {{benign: {{path: '{tmp_path}'}}}}\n"
        f"evaluation: {{judge: {{kind: ensemble, judges: {judges}}}, calibration: nosuch.jsonl}}\n"
    )
    assert [line.split("; ")[0] for line in wrong(diagnose(spec_file(tmp_path, missing)))] == [
        "problem  model.source: prompts.csv is not a folder",
        "problem  evaluation.judge.judges.0.model: nosuch is not a folder",
        f"problem  data.benign.path: {tmp_path} is not a file",
        "problem  evaluation.calibration: nosuch.jsonl is not a file",
    ]


def test_with_no_server_up_each_is_a_problem_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", CLOSED)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    spec = spec_file(tmp_path, f"tracking: {{uri: {CLOSED}}}")
    arguments = ["doctor", "--spec", str(spec), "--kubernetes", "--host", CLOSED]
    result = CliRunner().invoke(main, arguments)
    problems = [line for line in result.output.splitlines() if line.startswith("problem")]

    assert result.exit_code == 1
    assert [line.split()[1] for line in problems] == ["MLflow", "S3", "Kubernetes:", "Kubeflow"]
    assert all("; " in line for line in problems)
    assert "Traceback" not in result.output


def test_real_servers_are_well(s3: Any, mlflow_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    s3.create_bucket(Bucket="doctor-bucket")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.meta.endpoint_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with serving(KfpStub()) as kubeflow, cluster(tmp_path, {}) as kubeconfig:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(kubeconfig))
        spec = spec_file(
            tmp_path,
            f"tracking: {{uri: {mlflow_server}}}\ncompute: {{kind: trainjob, storage: s3://doctor-bucket/runs}}",
        )
        findings = list(diagnose(spec, host=kubeflow.host))

    assert wrong(findings) == [
        f"warning  MLflow at {mlflow_server} does not guard the alias champion: any client can move it; "
        "see docs/guard.md"
    ]
    told = "\n".join(map(str, findings))
    assert f"MLflow at {mlflow_server} shows its registry" in told
    assert f"S3 at {s3.meta.endpoint_url}, bucket doctor-bucket: may be read" in told
    assert "Kubernetes v1.34.0" in told
    assert "namespace tokenbuncher is there" in told
    assert "TrainJobs of tokenbuncher can be listed" in told
    assert f"Kubeflow Pipelines at {kubeflow.host}" in told
    assert not kubeflow.problems


def test_the_environment_s_servers_are_checked_without_a_spec(
    s3: Any, mlflow_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", s3.meta.endpoint_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    told = "\n".join(map(str, diagnose()))

    assert f"ok       MLflow at {mlflow_server}" in told
    assert f"ok       S3 at {s3.meta.endpoint_url}" in told


def test_a_bucket_that_is_not_there(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.meta.endpoint_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")

    assert found(_servers.check_s3(["nosuch-bucket"]), "nosuch-bucket")[0].endswith("correct its name")


def test_s3_without_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", CLOSED)

    assert "set AWS_ACCESS_KEY_ID" in found(_servers.check_s3([]), "S3")[0]


def test_a_server_of_another_kind_is_not_taken_for_mlflow_or_kubeflow(web_page: str) -> None:
    assert levels(_servers.check_mlflow(web_page)) == ["problem"]
    assert levels(_servers.check_kubeflow(web_page)) == ["warning"]


def test_servers_that_ask_for_a_token() -> None:
    stub = KfpStub()
    stub.token = "secret"
    with serving(stub):
        assert "set MLFLOW_TRACKING_USERNAME" in found(_servers.check_mlflow(stub.host), "refuses")[0]
        assert found(_servers.check_kubeflow(stub.host), "asks for a login")[0].startswith("warning")


@pytest.mark.parametrize(
    ("statuses", "said"),
    [
        ({"trainjobs": 404}, "install Kubeflow Trainer"),
        ({"trainjobs": 403}, "give the account the rights"),
        ({"tokenbuncher": 404}, "kubectl create namespace tokenbuncher"),
        ({"tokenbuncher": 403}, "kubectl get namespace tokenbuncher"),
        ({"version": 401}, "correct KUBECONFIG"),
    ],
)
def test_a_cluster_that_is_not_ready(
    statuses: dict[str, int], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cluster(tmp_path, statuses) as kubeconfig:
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(kubeconfig))
        findings = list(diagnose(kubernetes=True))

    assert [said in finding for finding in wrong(findings)] == [True]
    assert "kubernetes-secret" not in "\n".join(map(str, findings))


def test_a_server_that_never_answers_is_left_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_servers, "SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"

        assert levels(_servers.check_mlflow(url)) == ["problem"]
        assert levels(_servers.check_kubeflow(url)) == ["problem"]


def test_a_check_that_fails_or_is_late_is_a_problem() -> None:
    def failing() -> Iterator[Diagnosis]:
        yield ok("so far")
        raise RuntimeError("boom")

    def late() -> Iterator[Diagnosis]:
        threading.Event().wait(5)
        yield ok("never")

    assert [str(finding) for finding in doctor._within(5, "it", failing)] == [
        "ok       so far",
        "problem  it cannot be checked: RuntimeError: boom; mend that first",
    ]
    assert "longer than" in str(doctor._within(0.1, "it", late)[0])


def test_secrets_are_not_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, f"secret-of-{name}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:secret-in-url@127.0.0.1:9")
    spec = spec_file(tmp_path, "tracking: {uri: 'http://user:secret-in-url@127.0.0.1:9'}")
    host = "http://user:secret-in-url@127.0.0.1:9"
    result = CliRunner().invoke(main, ["doctor", "--spec", str(spec), "--host", host])

    assert "://***@127.0.0.1:9" in result.output
    assert "secret-" not in result.output


def test_a_spec_that_is_wrong_is_a_problem_and_the_rest_is_checked(tmp_path: Path) -> None:
    spec = spec_file(tmp_path, "modle: {}")
    findings = list(diagnose(spec))

    assert "did you mean model?" in found(iter(findings), "not a valid release spec")[0]
    assert found(iter(findings), "CPU cores")


def test_marks_of_init_that_are_left_are_told(tmp_path: Path) -> None:
    path = tmp_path / "release.yaml"
    write_spec("hf", path)
    findings = list(diagnose(path))

    lines = path.read_text(encoding="utf-8").splitlines()
    marked = found(iter(findings), "lines marked CHANGE")[0].partition("CHANGE: ")[2].partition(";")[0].split(", ")
    assert all("CHANGE" in lines[int(number) - 1] for number in marked)
    assert "set HF_HUB_OFFLINE=0" in found(iter(findings), "hub")[0]


def test_every_extra_but_those_of_developers_is_looked_at() -> None:
    assert set(_machine.pinned()) == {"", "dev", "browser", *_machine.EXTRAS}


def test_packages_that_lack_or_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"click": "7.0", "torch": None}
    installed = _machine._version
    monkeypatch.setattr(
        _machine, "_version", lambda name: versions.get(name, "1") if name in versions else installed(name)
    )
    findings = list(_machine.check_packages())

    assert "click is 7.0, not " in found(iter(findings), "click is")[0]
    assert levels(iter(findings)).count("problem") == 1
    assert found(iter(findings), "lacks torch")[0].endswith("pip install 'tokenbuncher[trainer]'")


@pytest.mark.parametrize("there", ["file/runs", "/proc/runs"])
def test_a_folder_that_cannot_be_written(there: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")

    assert levels(_machine.check_folder("output root", tmp_path / there)) == ["problem"]


@pytest.mark.parametrize(("limit", "level"), [("LITTLE_GB", "warning"), ("TOO_LITTLE_GB", "problem")])
def test_a_disk_that_is_nearly_full(limit: str, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_machine, "LITTLE_GB", 1e9)
    monkeypatch.setattr(_machine, limit, 1e9)

    assert levels(_machine.check_folder("output root", tmp_path)) == [level]


def test_threads_beyond_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")

    assert "set OMP_NUM_THREADS=1" in found(_machine.check_processors(wants_gpu=False), "CPU cores")[0]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A guarded server, and the guard's settings."""
    folder = write_guard(tmp_path_factory.mktemp("doctor-guard"))
    settings = folder / "guard.yaml"
    with guarded_server(f"sqlite:///{folder / 'db'}", str(folder / "artifacts"), settings, folder / "log") as uri:
        yield uri, settings


def about_guard(uri: str, alias: str = "champion") -> str:
    """What the doctor says of the guard."""
    [_, finding] = _servers.check_mlflow(uri, alias)
    return str(finding)


def test_a_guard_is_told_from_none(guarded: tuple[str, Path], mlflow_server: str) -> None:
    uri, settings = guarded
    assert about_guard(uri) == f"ok       MLflow at {uri} guards the alias champion"
    assert about_guard(uri, "Champion").startswith("ok")
    assert "does not guard the alias challenger: any client" in about_guard(uri, "challenger")
    assert "does not guard the alias champion: any client" in about_guard(mlflow_server)
    text = settings.read_text(encoding="utf-8")
    settings.write_text("{}", encoding="utf-8")
    assert "has a guard that moves nothing" in about_guard(uri)
    settings.write_text(text, encoding="utf-8")
    for asked in (uri, mlflow_server):  # and nothing was made
        assert not [model for model in MlflowClient(asked, asked).search_registered_models() if "doctor" in model.name]


@pytest.mark.parametrize("answer", [b"[]", b"null", b"<html>", b"", b'{"message": 7}', b'{"error_code": "X"}'])
def test_a_guard_that_cannot_be_told_is_unknown(answer: bytes, mlflow_server: str) -> None:
    proxy = Proxy(mlflow_server.removeprefix("http://"))
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        headers = [("Content-Length", str(len(answer)))]
        proxy.fault("POST", lambda forward: forward.reply(400, headers, answer), 9)
        assert f"whether MLflow at {proxy.url} guards champion is not known: it answers 400" in about_guard(proxy.url)
        proxy.faults.clear()
        proxy.fault("POST", hang_up, 9)
        assert f"whether MLflow at {proxy.url} guards champion is not known: " in about_guard(proxy.url)
    finally:
        proxy.shutdown()
        proxy.server_close()
