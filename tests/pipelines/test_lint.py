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

from pipelines.lint import Documents, check_arguments, lint, read_ir, refuse
from tokenbuncher.errors import UserError

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


def drop(path: str, document: int = 0) -> Callable[[Documents], None]:
    """Removes a field."""
    parent, _, key = path.rpartition(".")
    return lambda documents: at(documents[document], parent).pop(key)


def add(path: str, value: Any, document: int = 0) -> Callable[[Documents], None]:
    """Appends to a list."""
    return lambda documents: at(documents[document], path).append(value)


def env(name: str, value: str) -> Callable[[Documents], None]:
    return add(f"{EXECUTORS}.exec-attack.container.env", {"name": name, "value": value})


BROKEN: dict[str, tuple[Callable[[Documents], Any], str]] = {
    "no-component": (drop("components.comp-gate"), rf"{INNER}\.gate\.componentRef\.name: 'comp-gate' is no component"),
    "other-component": (put(f"{INNER}.gate.componentRef.name", "comp-x"), r"gate\.componentRef\.name: 'comp-x'"),
    "no-executor": (
        drop(f"{EXECUTORS}.exec-gate"),
        r"components\.comp-gate\.executorLabel: 'exec-gate' is no executor",
    ),
    "no-implementation": (drop("components.comp-gate.executorLabel"), r"comp-gate\.executorLabel: '' is no executor"),
    "no-producer": (
        put(f"{INNER}.promote.inputs.artifacts.verdict.taskOutputArtifact.producerTask", "judge"),
        r"promote\.inputs\.artifacts\.verdict\.taskOutputArtifact: no task beside it is called 'judge'",
    ),
    "no-output": (
        put(f"{INNER}.promote.inputs.artifacts.verdict.taskOutputArtifact.outputArtifactKey", "opinion"),
        r"verdict\.taskOutputArtifact: no task beside it is called 'gate' and has an output 'opinion'",
    ),
    "no-output-parameter": (
        put(f"{INNER}.attacks.inputs.parameters.keys.taskOutputParameter.outputParameterKey", "names"),
        r"attacks\.inputs\.parameters\.keys\.taskOutputParameter: .*'prepare-data' and has an output 'names'",
    ),
    "no-subtask": (
        put("components.comp-attacks.dag.outputs.artifacts.Output.artifactSelectors.0.producerSubtask", "loop"),
        r"comp-attacks\.dag\.outputs\.artifacts\.Output\.artifactSelectors: no task beside it is called 'loop'",
    ),
    "no-result": (
        drop("components.comp-attacks.dag.outputs"),
        r"comp-attacks\.dag\.outputs\.artifacts: lacks Output",
    ),
    "no-input-of-the-pipeline": (
        drop("root.inputDefinitions.parameters.spec"),
        r"root\.dag\.tasks\.announce\.inputs\.parameters\.spec\.componentInputParameter: 'spec' is no input of root",
    ),
    "no-input-artifact": (
        put(f"{LOOP}.inputs.artifacts.pipelinechannel--base.componentInputArtifact", "bass"),
        r"pipelinechannel--base\.componentInputArtifact: 'bass' is no input of components\.comp-attacks",
    ),
    "input-missing": (drop(f"{INNER}.gate.inputs.parameters.spec"), r"gate\.inputs\.parameters: lacks spec, which"),
    "artifact-missing": (
        drop(f"{INNER}.gate.inputs.artifacts.registration"),
        r"gate\.inputs\.artifacts: lacks registration, which comp-gate needs",
    ),
    "input-unknown": (
        put(f"{INNER}.gate.inputs.parameters.spek", {"runtimeValue": {"constant": "x"}}),
        r"gate\.inputs\.parameters\.spek: is no input of the component",
    ),
    "input-without-source": (put(f"{INNER}.gate.inputs.parameters.spec", {}), r"parameters\.spec: has no source"),
    "no-final-status": (
        put("root.dag.tasks.announce.inputs.parameters.status.taskFinalStatus.producerTask", "x"),
        r"announce\.inputs\.parameters\.status\.taskFinalStatus\.producerTask: 'x' is no task",
    ),
    "no-dependency": (
        put(f"{INNER}.gate.dependentTasks", ["attacks", "evaluate-safety", "evaluate-utility"]),
        r"gate\.dependentTasks: lacks register, whose output it takes",
    ),
    "unknown-dependency": (add(f"{INNER}.gate.dependentTasks", "x"), r"gate\.dependentTasks: 'x' is no task beside it"),
    "cycle": (
        add(f"{INNER}.fetch-model.dependentTasks", "promote"),
        rf"{INNER}: .*promote.* is a cycle",
    ),
    "component-in-itself": (
        put(f"{LOOP}.componentRef.name", "comp-attacks"),
        "components: comp-attacks -> comp-attacks is a cycle",
    ),
    "loop-over-nothing": (
        put(f"{LOOP}.parameterIterator.items.inputParameter", "x"),
        rf"{LOOP}\.parameterIterator\.items: 'x' is no input of the task",
    ),
    "loop-into-nothing": (
        put(f"{LOOP}.parameterIterator.itemInput", "x"),
        rf"{LOOP}\.parameterIterator\.itemInput: 'x' is no input of the component",
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
    "no-command": (drop(f"{EXECUTORS}.exec-gate.container.command"), r"exec-gate\.container\.command: is missing"),
    "no-resources": (
        drop(f"{EXECUTORS}.exec-gate.container.resources"),
        r"exec-gate\.container\.resources\.resourceMemoryLimit: is missing",
    ),
    "no-cpu": (
        put(f"{EXECUTORS}.exec-gate.container.resources", {"resourceMemoryLimit": "1Gi", "memoryRequest": 1.0}),
        r"exec-gate\.container\.resources\.resourceCpuRequest: is missing",
    ),
    "executor-of-nothing": (put(f"{EXECUTORS}.exec-gate", {}), r"exec-gate: is neither container nor importer"),
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
    "default-of-another-type": (
        put("root.inputDefinitions.parameters.spec.defaultValue", 3),
        r"root\.inputDefinitions\.parameters\.spec\.defaultValue: is no STRING",
    ),
    "constant-of-another-type": (
        put(f"{INNER}.gate.inputs.parameters.spec", {"runtimeValue": {"constant": 3}}),
        r"gate\.inputs\.parameters\.spec\.runtimeValue\.constant: is no STRING",
    ),
    "parameter-of-another-type": (
        put("components.comp-gate.inputDefinitions.parameters.spec.parameterType", "NUMBER_INTEGER"),
        r"gate\.inputs\.parameters\.spec: gets a STRING, but takes a NUMBER_INTEGER",
    ),
    "parameter-without-type": (
        drop("components.comp-gate.inputDefinitions.parameters.spec.parameterType"),
        r"comp-gate\.inputDefinitions\.parameters\.spec\.parameterType: is no type",
    ),
    "artifact-of-another-type": (
        put("components.comp-defend.inputDefinitions.artifacts.base.artifactType.schemaTitle", "system.Dataset"),
        r"defend\.inputs\.artifacts\.base: gets a system\.Model, but takes a system\.Dataset",
    ),
    "one-for-a-list": (
        drop("components.comp-attacks.outputDefinitions.artifacts.Output.isArtifactList"),
        r"gate\.inputs\.artifacts\.attacks: must be given a list",
    ),
    "artifact-without-type": (
        drop("components.comp-gate.inputDefinitions.artifacts.safety.artifactType"),
        r"comp-gate\.inputDefinitions\.artifacts\.safety\.artifactType: is no type",
    ),
    "type-without-name": (
        put("components.comp-gate.inputDefinitions.parameters.spec.parameterType", 99),
        r"comp-gate\.inputDefinitions\.parameters\.spec\.parameterType: is no type",
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
    "pod-of-no-executor": (put(f"{PODS}.exec-x", {}, 1), rf"{PODS}\.exec-x: is an executor that the pipeline does not"),
    "secret-without-key": (
        put(f"{PODS}.exec-gate.secretAsEnv.0.keyToEnv", [], 1),
        rf"{PODS}\.exec-gate\.secretAsEnv\.0: is not whole",
    ),
    "secret-without-path": (
        drop(f"{PODS}.exec-gate.secretAsVolume.0.mountPath", 1),
        rf"{PODS}\.exec-gate\.secretAsVolume\.0: is not whole",
    ),
    "claim-without-path": (
        put(f"{PODS}.exec-attack.pvcMount.0.mountPath", "", 1),
        rf"{PODS}\.exec-attack\.pvcMount\.0: is not whole",
    ),
    "two-volumes-at-a-path": (
        put(f"{PODS}.exec-attack.pvcMount.0.mountPath", "/dev/shm", 1),
        rf"{PODS}\.exec-attack: mounts several volumes at /dev/shm",
    ),
    "other-platform": (put("platforms.vertex", {}, 1), r"platforms\.vertex: is no platform of ours"),
    "no-name": (drop("pipelineInfo"), r"pipelineInfo\.name: must be"),
    "no-tasks": (put("root.dag.tasks", {}), r"root\.dag: has no tasks"),
    "other-schema": (put("schemaVersion", "1.0.0"), "schemaVersion: must be 2"),
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


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"spec": "name: x"}, []),
        ({}, ["argument spec: missing; give a STRING"]),
        ({"spec": 3}, ["argument spec: is int, must be STRING"]),
        ({"spec": "x", "sped": "y"}, ["argument sped: unknown; the pipeline takes: spec"]),
    ],
)
def test_arguments(arguments: dict[str, Any], expected: list[str], placed: Documents) -> None:
    assert [str(problem) for problem in check_arguments(placed, arguments)] == expected


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("STRING", ["", "a"], [1, None]),
        ("BOOLEAN", [True], ["true", 1]),
        ("NUMBER_INTEGER", [3, 3.0], [3.5, True, "3", float("inf")]),
        ("NUMBER_DOUBLE", [3, 3.5], [True, "3.5"]),
        ("LIST", [[], [1]], ["[]", {}]),
        ("STRUCT", [{}, {"a": 1}], ["{}", []]),
    ],
)
def test_argument_types(kind: str, good: list[Any], bad: list[Any], documents: Any) -> None:
    documents[0]["root"]["inputDefinitions"]["parameters"]["spec"]["parameterType"] = kind

    assert not any(check_arguments(documents, {"spec": value}) for value in good)
    assert all(check_arguments(documents, {"spec": value}) for value in bad)


def test_optional_argument_and_default(documents: Any) -> None:
    parameters = documents[0]["root"]["inputDefinitions"]["parameters"]
    parameters |= {"more": {"parameterType": "STRING", "isOptional": True}}
    parameters |= {"less": {"parameterType": "STRING", "defaultValue": "x"}}

    assert check_arguments(documents, {"spec": "x"}) == []


def paths_of(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in items:
        yield (*path, key)
        yield from paths_of(value, (*path, key))


ODD = st.sampled_from(
    ["", "x", "gate", "comp-attacks", "exec-gate", "for-loop-1", None, 0, 1.5, 99, -1, [], {}, [None], True]
)


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
    check_arguments(documents, {"spec": "x"})


def test_every_single_deletion_is_survived(built: Path) -> None:
    compiled = read_ir(built / "gate-only.yaml")
    for *parents, key in list(paths_of(compiled)):
        documents: Any = deepcopy(compiled)
        place = documents
        for parent in parents:
            place = place[parent]
        del place[key]
        lint(documents)


@pytest.mark.parametrize("text", ["a: [", "\x00"])
def test_no_yaml(text: str, tmp_path: Path) -> None:
    (tmp_path / "pipeline.yaml").write_text(text)

    with pytest.raises(UserError, match="is not YAML"):
        read_ir(tmp_path / "pipeline.yaml")


def test_refuse_lists_every_problem(documents: Any) -> None:
    drop("components.comp-gate")(documents)
    drop("components.comp-promote")(documents)

    with pytest.raises(UserError, match=r"(?s)not sound:\n  .*comp-gate.*\n  .*comp-promote"):
        refuse(lint(documents), "not sound")
    refuse([], "not sound")
