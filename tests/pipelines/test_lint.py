"""The linter: what is sound it leaves alone, what is broken it finds, and nothing makes it fall over."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.lint import Documents, lint, read_ir, refuse
from tokenbuncher.core.errors import UserError

INNER = "components.comp-exit-handler-1.dag.tasks"
LOOP = "components.comp-attacks.dag.tasks.for-loop-1"
EXECUTORS = "deploymentSpec.executors"
PODS = "platforms.kubernetes.deploymentSpec.executors"
SECRET = "S3cr3tS3cr3tS3cr3"


def at(document: Any, path: str) -> Any:
    """What stands at a path of a document."""
    for key in filter(None, path.split(".")):
        document = document[int(key) if isinstance(document, list) else key]
    return document


def put(path: str, value: Any, document: int = 0) -> Callable[[Documents], None]:
    """Sets a field."""
    parent, _, key = path.rpartition(".")

    def change(documents: Documents) -> None:
        place = at(documents[document], parent)
        place[int(key) if isinstance(place, list) else key] = value

    return change


def drop(path: str, document: int = 0) -> Callable[[Documents], Any]:
    """Removes a field."""
    parent, _, key = path.rpartition(".")
    return lambda documents: at(documents[document], parent).pop(key)


def add(path: str, value: Any, document: int = 0) -> Callable[[Documents], None]:
    """Appends to a list."""
    return lambda documents: at(documents[document], path).append(value)


def both(*changes: Callable[[Documents], Any]) -> Callable[[Documents], None]:
    """One change after the other."""

    def change(documents: Documents) -> None:
        for one in changes:
            one(documents)

    return change


def move(path: str, to: str) -> Callable[[Documents], None]:
    """Takes a field away and puts it elsewhere."""
    return lambda documents: put(to, drop(path)(documents))(documents)


def env(name: str, value: str) -> Callable[[Documents], None]:
    return add(f"{EXECUTORS}.exec-attack.container.env", {"name": name, "value": value})


BROKEN: dict[str, tuple[Callable[[Documents], Any], str]] = {
    "cycle": (
        add(f"{INNER}.fetch-model.dependentTasks", "promote"),
        rf"{INNER}: .*promote.* is a cycle",
    ),
    "component-in-itself": (
        put(f"{LOOP}.componentRef.name", "comp-attacks"),
        "components: comp-attacks -> comp-attacks is a cycle",
    ),
    "image-without-tag": (
        put(f"{EXECUTORS}.exec-gate.container.image", "registry.example:5000/gate"),
        r"exec-gate\.container\.image: 'registry.example:5000/gate' may be another image tomorrow",
    ),
    "image-latest": (
        put(f"{EXECUTORS}.exec-gate.container.image", "gate:latest"),
        r"exec-gate\.container\.image: .*other than latest",
    ),
    "image-with-half-a-digest": (
        put(f"{EXECUTORS}.exec-gate.container.image", "gate@sha256:abc"),
        r"exec-gate\.container\.image",
    ),
    "no-image": (drop(f"{EXECUTORS}.exec-gate.container.image"), r"exec-gate\.container\.image: ''"),
    "no-resources": (
        drop(f"{EXECUTORS}.exec-gate.container.resources"),
        r"exec-gate\.container\.resources\.resourceMemoryLimit: is missing",
    ),
    "cached-gate": (
        put(f"{INNER}.gate.cachingOptions", {"enableCache": True}),
        rf"{INNER}\.gate\.cachingOptions: gate must not be cached",
    ),
    "cached-promote": (
        put(f"{INNER}.promote.cachingOptions", {"enableCache": True}),
        r"promote\.cachingOptions: promote must not be cached",
    ),
    "repeated-register": (
        put(f"{INNER}.register.retryPolicy", {"maxRetryCount": 2}),
        r"register\.retryPolicy: register must not be run again",
    ),
    "aws-key": (env("ANYTHING", "AKIAABCDEFGHIJKLMNOP"), r"env\.2\.value: holds what looks like an AWS access key"),
    "private-key": (env("ANYTHING", "-----BEGIN EC PRIVATE KEY-----\nabc"), r"looks like a private key"),
    "hub-token": (env("ANYTHING", "hf_" + "a" * 34), r"looks like a Hugging Face token"),
    "password-in-url": (env("DATABASE", f"postgresql://mlflow:{SECRET}@db/mlflow"), r"looks like a password in a URL"),
    "password-in-text": (env("OPTIONS", f"user=me password={SECRET}"), r"looks like a password or token"),
    "variable-that-is-a-key": (env("AWS_SECRET_ACCESS_KEY", SECRET), r"env\.2: gives AWS_SECRET_ACCESS_KEY a literal"),
    "variable-that-is-a-token": (env("MLFLOW_TRACKING_TOKEN", SECRET), r"gives MLFLOW_TRACKING_TOKEN a literal value"),
    "variable-that-is-a-password": (env("PGPASSWORD", SECRET), r"gives PGPASSWORD a literal value"),
    "secret-in-a-default": (
        put("root.inputDefinitions.parameters.spec.defaultValue", f"token: {SECRET}"),
        r"root\.inputDefinitions\.parameters\.spec\.defaultValue: holds what looks like",
    ),
    "unknown-type": (
        put("components.comp-gate.inputDefinitions.parameters.spec.parameterType", "STRINGG"),
        r"pipeline: .*STRINGG",
    ),
    "unknown-field": (put(f"{INNER}.gate.cacheOptions", {}), r"pipeline: .*no field named \"cacheOptions\""),
    "unknown-field-of-an-executor": (
        put(f"{EXECUTORS}.exec-gate.container.imagePullPolicy", "Always"),
        r"deploymentSpec: .*no field named \"imagePullPolicy\"",
    ),
    "unknown-field-of-a-platform": (put("platforms.kubernetes.deploySpec", {}, 1), r"platform: .*\"deploySpec\""),
    "unknown-field-of-a-pod": (
        put(f"{PODS}.exec-gate.nodeSelectors", {}, 1),
        rf"{PODS}\.exec-gate: .*no field named \"nodeSelectors\"",
    ),
    "two-volumes-at-a-path": (
        put(f"{PODS}.exec-attack.pvcMount.0.mountPath", "/dev/shm", 1),
        rf"{PODS}\.exec-attack: mounts several volumes at /dev/shm",
    ),
    "no-promote": (drop(f"{INNER}.promote"), r"root\.dag: has no task promote"),
    "no-promote-in-a-pipeline-of-another-name": (
        both(drop(f"{INNER}.promote"), put("pipelineInfo.name", "release-of-mine")),
        r"root\.dag: has no task promote",
    ),
    "no-gate": (drop(f"{INNER}.gate"), r"root\.dag: has no task gate"),
    "no-attacks": (drop(f"{INNER}.attacks"), r"root\.dag: has no task attack"),
    "no-exit-task": (drop("root.dag.tasks.announce"), r"root\.dag: has no task announce"),
    "exit-task-within": (
        move("root.dag.tasks.announce", f"{INNER}.announce"),
        r"root\.dag: has no exit task; announce belongs there",
    ),
    "exit-task-that-waits-for-success": (
        drop("root.dag.tasks.announce.triggerPolicy"),
        r"announce\.triggerPolicy: announce must run whatever has failed",
    ),
    "exit-task-of-nothing": (
        put("root.dag.tasks.announce.dependentTasks", []),
        r"announce\.dependentTasks: lacks exit-handler-1",
    ),
    "promote-after-a-failure": (
        put(f"{INNER}.promote.triggerPolicy", {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}),
        r"promote\.triggerPolicy: goes on after a failure",
    ),
    "gate-after-a-failure": (
        put(f"{INNER}.gate.triggerPolicy", {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}),
        r"gate\.triggerPolicy: goes on after a failure",
    ),
    "gate-on-a-condition": (
        put(f"{INNER}.gate.triggerPolicy", {"condition": "inputs.parameter_values['spec'] == 'x'"}),
        r"gate\.triggerPolicy: gate must not depend on a condition",
    ),
    "gate-without-attacks": (
        drop(f"{INNER}.gate.inputs.artifacts.attacks"),
        r"gate\.inputs\.artifacts: lacks attacks; what is not judged cannot block",
    ),
    "gate-without-safety": (drop(f"{INNER}.gate.inputs.artifacts.safety"), r"gate\.inputs\.artifacts: lacks safety"),
    "promote-without-utility": (
        drop(f"{INNER}.promote.inputs.artifacts.utility"),
        r"promote\.inputs\.artifacts: lacks utility",
    ),
    "promote-without-verdict": (
        drop(f"{INNER}.promote.inputs.artifacts.verdict"),
        r"promote\.inputs\.artifacts: has no verdict of the gate",
    ),
    "safety-for-utility": (
        put(
            f"{INNER}.gate.inputs.artifacts.utility.taskOutputArtifact",
            {"outputArtifactKey": "evidence", "producerTask": "evaluate-safety"},
        ),
        r"gate\.inputs\.artifacts\.utility: does not come from evaluate-utility",
    ),
    "promote-of-what-was-not-judged": (
        put(
            f"{INNER}.promote.inputs.artifacts.safety.taskOutputArtifact",
            {"outputArtifactKey": "evidence", "producerTask": "evaluate-utility"},
        ),
        r"promote\.inputs\.artifacts\.safety: is not what the gate judged",
    ),
    "gate-with-a-spec-of-its-own": (
        put(f"{INNER}.gate.inputs.parameters.spec", {"runtimeValue": {"constant": "policy: {}"}}),
        r"gate\.inputs\.parameters\.spec: is a spec of its own",
    ),
    "gate-without-a-spec": (
        drop(f"{INNER}.gate.inputs.parameters.spec"),
        r"gate\.inputs\.parameters\.spec: is a spec of its own",
    ),
    "defence-that-takes-what-the-gate-reports": (
        put(
            f"{INNER}.defend.inputs.artifacts.data.taskOutputArtifact",
            {"outputArtifactKey": "report", "producerTask": "gate"},
        ),
        rf"{INNER}: .*gate.* is a cycle",
    ),
    "signing-key-as-files-of-an-attack": (
        put(f"{PODS}.exec-attack.secretAsVolume", [{"secretName": "signing-key", "mountPath": "/keys"}], 1),
        rf"{PODS}\.exec-attack\.secretAsVolume\.0: gives it the Secret signing-key; the signing key is the gate's",
    ),
    "signing-key-as-a-variable": (
        add(
            f"{PODS}.exec-promote.secretAsEnv",
            {"secretName": "signing-key", "keyToEnv": [{"secretKey": "release.pem", "envVar": "ANYTHING"}]},
            1,
        ),
        r"exec-promote\.secretAsEnv\.1: gives it the Secret signing-key",
    ),
    "signing-key-named-by-a-parameter": (
        put(
            f"{PODS}.exec-register.secretAsVolume",
            [{"secretNameParameter": {"runtimeValue": {"constant": "signing-key"}}, "mountPath": "/keys"}],
            1,
        ),
        r"exec-register\.secretAsVolume\.0: gives it the Secret signing-key",
    ),
    "signing-key-under-another-name": (
        both(
            put(f"{PODS}.exec-gate.secretAsVolume.0.secretName", "release-2026", 1),
            put(f"{PODS}.exec-gate.secretAsVolume.0.secretNameParameter.runtimeValue.constant", "release-2026", 1),
            put(f"{PODS}.exec-attack.secretAsVolume", [{"secretName": "release-2026", "mountPath": "/elsewhere"}], 1),
        ),
        r"exec-attack\.secretAsVolume\.0: gives it the Secret release-2026",
    ),
    "secret-that-only-the-run-names": (
        put(
            f"{PODS}.exec-attack.secretAsVolume",
            [{"secretNameParameter": {"componentInputParameter": "spec"}, "mountPath": "/keys"}],
            1,
        ),
        r"exec-attack\.secretAsVolume\.0: gives it a Secret that only the run names",
    ),
    "claim-that-only-the-run-names": (
        put(
            f"{PODS}.exec-defend.pvcMount",
            [{"pvcNameParameter": {"componentInputParameter": "spec"}, "mountPath": "/work"}],
            1,
        ),
        r"exec-defend\.pvcMount\.0: mounts a claim that only the run names",
    ),
    "passphrase-of-the-key": (
        add(
            f"{PODS}.exec-defend.secretAsEnv",
            {"secretName": "x", "keyToEnv": [{"secretKey": "y", "envVar": "TOKENBUNCHER_KEY_PASSPHRASE"}]},
            1,
        ),
        r"exec-defend\.secretAsEnv\.1: gives it a variable of the signing key",
    ),
    "quarantine-of-the-gate": (
        put(f"{PODS}.exec-gate.pvcMount", [{"constant": "quarantine", "mountPath": "/work"}], 1),
        rf"{PODS}\.exec-gate\.pvcMount\.0: mounts quarantine, where attacked weights may lie",
    ),
    "quarantine-of-the-registration": (
        put(
            f"{PODS}.exec-register.pvcMount",
            [{"pvcNameParameter": {"runtimeValue": {"constant": "quarantine"}}, "mountPath": "/work"}],
            1,
        ),
        r"exec-register\.pvcMount\.0: mounts quarantine",
    ),
    "quarantine-of-the-evaluation": (
        put(f"{PODS}.exec-evaluate-safety.pvcMount", [{"constant": "quarantine", "mountPath": "/work"}], 1),
        r"exec-evaluate-safety\.pvcMount\.0: mounts quarantine",
    ),
    "volume-of-the-promotion": (
        put(f"{PODS}.exec-promote.pvcMount", [{"constant": "another", "mountPath": "/work"}], 1),
        r"exec-promote\.pvcMount\.0: mounts another",
    ),
    "network-of-another-stage": (
        put(f"{PODS}.exec-attack.podMetadata.labels", {"tokenbuncher.io/stage": "fetch-model"}, 1),
        r"exec-attack\.podMetadata\.labels: tokenbuncher\.io/stage gives attack the network of fetch-model",
    ),
    "no-network-policy": (
        put(f"{PODS}.exec-attack.podMetadata.labels", {"tokenbuncher.io/stage": "attack"}, 1),
        r"exec-defend\.podMetadata\.labels: lacks tokenbuncher\.io/stage: defend",
    ),
    "network-of-a-server": (
        put(f"{PODS}.exec-attack.podMetadata.labels", {"app.kubernetes.io/name": "mlflow"}, 1),
        r"exec-attack\.podMetadata\.labels: app\.kubernetes\.io/name would give it the network of another",
    ),
    "third-document": (lambda documents: documents.append({}), "file: has 3 documents"),
    "no-document": (lambda documents: documents.clear(), "file: has 0 documents"),
    "no-mapping": (lambda documents: documents.__setitem__(0, "pipeline"), "pipeline: must be a mapping, not str"),
}


@pytest.fixture
def documents(placed: Documents) -> Any:
    copy = deepcopy(placed)
    at(copy[0], f"{INNER}.fetch-model").setdefault("dependentTasks", [])
    return copy


@pytest.mark.parametrize("name", BROKEN)
def test_broken_is_found(name: str, documents: Any) -> None:
    spoil, expected = BROKEN[name]
    assert lint(documents) == []

    spoil(documents)

    problems = [str(problem) for problem in lint(documents)]
    assert any(re.match(f"(?s).*{expected}", problem) for problem in problems), problems
    assert not any(SECRET in problem for problem in problems)


def test_path_to_a_key_is_no_secret(documents: Any) -> None:
    env("TOKENBUNCHER_SIGNING_KEY", "/etc/signing/key.pem")(documents)
    env("TOKENIZERS_PARALLELISM", "false")(documents)

    assert lint(documents) == []


def paths_of(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in items:
        yield (*path, key)
        yield from paths_of(value, (*path, key))


ODD = st.sampled_from(
    ["", "x", "gate", "comp-attacks", "exec-gate", "for-loop-1", None, 0, 1.5, 99, -1, [], {}, [None], True]
).map(deepcopy)
"""Each time a value of its own: what is put into a document may be changed there."""


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_nothing_makes_the_linter_fall_over(data: st.DataObject, placed: Documents) -> None:
    documents: Any = deepcopy(placed)
    for _ in range(data.draw(st.integers(1, 3))):
        *parents, key = data.draw(st.sampled_from(list(paths_of(documents))))
        place = documents
        for parent in parents:
            place = place[parent]
        if data.draw(st.booleans()):
            del place[key]
        else:
            place[key] = data.draw(ODD)

    for problem in lint(documents):
        assert problem.where
        assert problem.what


def test_every_single_deletion_is_survived(built: Path) -> None:
    compiled = read_ir(built / "gate-only.yaml")
    for *parents, key in list(paths_of(compiled)):
        documents: Any = deepcopy(compiled)
        place = documents
        for parent in parents:
            place = place[parent]
        del place[key]
        lint(documents)


@pytest.mark.parametrize(("text", "told"), [("a: [", "is not YAML"), ("\x00", "or no text")])
def test_no_yaml(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "pipeline.yaml").write_text(text, encoding="utf-8")

    with pytest.raises(UserError, match=told):
        read_ir(tmp_path / "pipeline.yaml")


def test_refuse_lists_every_problem(documents: Any) -> None:
    drop(f"{INNER}.gate")(documents)
    drop(f"{INNER}.promote")(documents)

    with pytest.raises(UserError, match=r"(?s)not sound:\n  .*no task gate.*\n  .*no task promote"):
        refuse(lint(documents), "not sound")
    refuse([], "not sound")
