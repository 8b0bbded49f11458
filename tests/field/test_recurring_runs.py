"""Releases on Kubeflow whose model or prompts have a name that moves: a branch, an alias, a plain folder or file."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from mlflow import MlflowClient

from pipelines.compile import PIPELINES, compile_pipeline
from pipelines.lint import read_ir
from pipelines.pinning import dated, pinned
from pipelines.placement import Placement
from tests.evidence_factory import release_spec
from tests.pipelines.kfp_stub import KfpStub, serving
from tests.storage.test_hub import COMMIT, Hub
from tokenbuncher.cli import main
from tokenbuncher.core.stages import REPEATABLE
from tokenbuncher.settings import ReleaseSpec, parse_spec
from tokenbuncher.storage import publish

JUDGING = {"controls", "attack", "evaluate-safety"}
FETCHING, PREPARING = set(REPEATABLE) - {"prepare-data"}, set(REPEATABLE) - {"fetch-model"}


@pytest.fixture
def kfp(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[KfpStub]:
    monkeypatch.setattr("pipelines.submit.Client._LOCAL_KFP_CONTEXT", str(tmp_path / "no-context.json"))
    with serving(KfpStub()) as stub:
        yield stub


@pytest.fixture
def submit(kfp: KfpStub, tmp_path: Path) -> Callable[..., Result]:
    """`tokenbuncher submit` of a spec with these fields."""

    def submit(*options: str, **fields: Any) -> Result:
        spec = release_spec(tracking={"uri": "http://mlflow:5000"}, **fields)
        (tmp_path / "spec.yaml").write_text(spec.to_yaml(), encoding="utf-8")
        command = ["submit", "--spec", str(tmp_path / "spec.yaml"), "--host", kfp.host, *options]
        return CliRunner().invoke(main, command)

    return submit


@pytest.fixture
def alias(mlflow_server: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Puts the alias `candidate` of the model `moving` on a version."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    client = MlflowClient(mlflow_server, mlflow_server)
    if not client.search_registered_models("name = 'moving'"):
        client.create_registered_model("moving")
        for _ in range(2):
            client.create_model_version("moving", source="s3://bucket/x")
    return lambda version: client.set_registered_model_alias("moving", "candidate", str(version))


def cached(pipeline: Path | str) -> set[str]:
    """The stages that a compiled pipeline takes from the cache."""
    documents = read_ir(pipeline) if isinstance(pipeline, Path) else list(yaml.safe_load_all(pipeline))
    parts = [documents[0]["root"], *documents[0]["components"].values()]
    tasks = {name: task for part in parts if "dag" in part for name, task in part["dag"]["tasks"].items()}
    return {name for name, task in tasks.items() if task.get("cachingOptions", {}).get("enableCache")} & set(REPEATABLE)


def sent(kfp: KfpStub) -> tuple[ReleaseSpec, set[str]]:
    """The spec that was submitted last, and the stages that its pipeline takes from the cache."""
    created = [*kfp.asked("POST", "/runs"), *kfp.asked("POST", "/recurringruns")][-1]
    uploads = [*kfp.asked("POST", "/pipelines/upload"), *kfp.asked("POST", "/pipelines/upload_version")]
    return parse_spec(created.body["runtime_config"]["parameters"]["spec"]), cached(uploads[-1].body["uploadfile"])


@pytest.mark.parametrize("name", ["release", "red-team"])
def test_a_pipeline_compiled_for_any_spec_takes_nothing_from_the_cache(name: str, tmp_path: Path) -> None:
    assert name in PIPELINES
    compile_pipeline(name, tmp_path / "any.yaml", Placement())

    assert cached(tmp_path / "any.yaml") == set()


def test_a_built_in_model_is_cached(submit: Callable[..., Result], kfp: KfpStub) -> None:
    assert submit().output == f"{kfp.host}/#/runs/details/runs-1\n"
    assert sent(kfp)[1] == set(REPEATABLE) - {"controls", "report-attacks"}


def test_an_alias_is_the_version_that_it_is_on_when_submitted(
    submit: Callable[..., Result], kfp: KfpStub, alias: Callable[[int], None]
) -> None:
    for version in (1, 2):
        alias(version)
        result = submit(model={"source": "models:/moving@candidate"})
        assert f"model.source models:/moving@candidate is pinned: models:/moving/{version}\n" in result.output
        spec, stages = sent(kfp)
        assert spec.model.source == f"models:/moving/{version}"
        assert "fetch-model" in stages


@pytest.mark.parametrize("source", ["models:/moving@nobody", "models:/nosuch@candidate"])
def test_an_alias_that_cannot_be_looked_up_is_not_cached(
    source: str, submit: Callable[..., Result], kfp: KfpStub, alias: Callable[[int], None]
) -> None:
    result = submit(model={"source": source})

    assert result.exit_code == 0
    assert "model.source is not pinned: " in result.output
    assert "fetch-model, defend, controls" in result.output
    assert sent(kfp)[1] == {"prepare-data"}, "what is made of another model is another result"


def test_an_alias_of_a_registry_that_nobody_named_is_not_cached(
    submit: Callable[..., Result], kfp: KfpStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    assert "Set MLFLOW_TRACKING_URI" in submit(model={"source": "models:/moving@candidate"}).output
    assert "fetch-model" not in sent(kfp)[1]


def test_a_schedule_is_pinned_and_measures_anew_each_time(
    submit: Callable[..., Result], kfp: KfpStub, alias: Callable[[int], None]
) -> None:
    alias(2)
    result = submit("--recurring", "0 0 3 * * 1", model={"source": "models:/moving@candidate"})

    assert "is pinned: models:/moving/2" in result.output
    assert "every run of this schedule judges what is pinned here" in result.output
    spec, stages = sent(kfp)
    assert spec.model.source == "models:/moving/2"
    assert stages == set()


def test_a_dry_run_tells_what_would_be_pinned(
    submit: Callable[..., Result], kfp: KfpStub, alias: Callable[[int], None]
) -> None:
    alias(1)
    result = submit("--dry-run", model={"source": "models:/moving@candidate"})

    assert "is pinned: models:/moving/1" in result.output
    assert kfp.asked("POST", "/runs") == []


PINNING = """
import json, sys
from pipelines.pinning import pinned
from tokenbuncher.settings import parse_spec
found = pinned(parse_spec("", sys.argv[1:]))
print(json.dumps([found.spec.model.source, found.spec.data.benign.path, list(found.cached), found.told]))
"""


def test_a_branch_or_tag_of_the_hub_is_its_commit(tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked, server.sent = [], {}  # type: ignore[attr-defined]
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    data = {"path": f"hf://datasets/org/prompts@{COMMIT}/p.csv"}
    process = subprocess.run(
        [sys.executable, "-c", PINNING, "model.source=hf://org/small@v1", f"data.benign={json.dumps(data)}"],
        env={
            "PYTHONPATH": ":".join(sys.path),
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(tmp_path),
        },
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    server.shutdown()
    server.server_close()

    assert process.returncode == 0, process.stderr
    source, path, stages, told = json.loads(process.stdout.splitlines()[-1])
    assert source == f"hf://org/small@{COMMIT}"
    assert path == data["path"]
    assert set(stages) == set(REPEATABLE)
    assert told == [f"model.source hf://org/small@v1 is pinned: {source}"]


def test_a_published_prefix_is_its_digest_and_another_is_not_cached(s3: Any, tmp_path: Path) -> None:
    s3.create_bucket(Bucket="pinning")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}", encoding="utf-8")
    exact = publish(tmp_path / "model", "s3://pinning/published")
    s3.put_object(Bucket="pinning", Key="copied/config.json", Body=b"{}")

    found = pinned(parse_spec("model: {source: 's3://pinning/published'}"))
    assert found.spec.model.source == exact
    assert "fetch-model" in found.cached
    loose = pinned(parse_spec("model: {source: 's3://pinning/copied'}"))
    assert "fetch-model" not in loose.cached
    assert "s3://pinning/copied was not published by tokenbuncher" in loose.told[0]


DIGEST = "0" * 64
JUDGE = {"kind": "classifier", "harmful_labels": ["harm"]}


@pytest.mark.parametrize(
    ("field", "value", "stages"),
    [
        ("model.source", "/models/base", FETCHING),
        ("model.source", f"/models/base#sha256={DIGEST}", set()),
        ("model.source", "file:///models/base", FETCHING),
        ("model.source", "models:/chat/7", set()),
        ("model.source", f"hf://org/name@{COMMIT}", set()),
        ("model.adapter_base", "/models/base", FETCHING),
        ("data.harmful", {"path": "prompts.csv"}, PREPARING),
        ("data.harmful", {"path": "prompts.csv", "sha256": DIGEST}, set()),
        ("data.look_alikes", {"path": "prompts.csv"}, PREPARING),
        ("data.utility", {"path": "s3://bucket/questions.csv", "answer": "a"}, PREPARING),
        ("data.benign", {"path": f"hf://datasets/org/name@{COMMIT}/p.csv"}, set()),
        ("evaluation.judge", {**JUDGE, "model": "/models/judge"}, JUDGING),
        ("evaluation.judge", {**JUDGE, "model": "models:/judge/1"}, set()),
        (
            "evaluation.judge",
            {"kind": "ensemble", "judges": [{**JUDGE, "model": "models:/a/1"}, {**JUDGE, "model": "/models/b"}]},
            JUDGING,
        ),
        ("attacks.reward", {**JUDGE, "model": "/models/reward"}, JUDGING),
        ("evaluation.calibration", "known.jsonl", JUDGING),
        ("evaluation.harness", {"tasks": ["arc_easy"]}, {"evaluate-utility"}),
    ],
)
def test_what_may_change_outside_of_the_spec_is_never_cached(field: str, value: object, stages: set[str]) -> None:
    found = pinned(parse_spec("", ["data.look_alikes=smollm2", f"{field}={json.dumps(value)}"]))

    assert set(REPEATABLE) - set(found.cached) == stages
    assert all(told.startswith(f"{field}") for told in found.told)


def test_the_moving_member_of_an_ensemble_is_pinned_in_its_place(alias: Callable[[int], None]) -> None:
    alias(2)
    judges = [{**JUDGE, "model": "models:/other/1"}, {**JUDGE, "model": "models:/moving@candidate"}]
    spec = parse_spec("", [f"evaluation.judge={json.dumps({'kind': 'ensemble', 'judges': judges})}"])

    assert [judge.model for judge in pinned(spec).spec.evaluation.judge.judges] == [
        "models:/other/1",
        "models:/moving/2",
    ]


@pytest.mark.parametrize("days", [1, 2, 90, 365])
def test_evidence_of_the_cache_is_never_older_than_half_of_valid_days(days: int) -> None:
    spec = parse_spec("", [f"policy.valid_days={days}", "policy.name=mine"])
    measured = datetime(2026, 11, 29, 12, tzinfo=UTC)
    half = timedelta(days=days) / 2

    texts = [dated(spec, measured + half * part / 10) for part in range(11)]
    assert texts[0] != texts[-1]
    assert len(set(texts)) == 2
    assert all(parse_spec(text) == spec for text in texts)


def test_the_text_that_is_submitted_has_the_date(submit: Callable[..., Result], kfp: KfpStub) -> None:
    submit()
    text = kfp.asked("POST", "/runs")[0].body["runtime_config"]["parameters"]["spec"]

    assert text.startswith("# What was measured before 20")
