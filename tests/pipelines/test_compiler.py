"""What the linter leaves to kfp's compiler is refused by it; what that lets pass, the linter finds."""

from collections.abc import Callable
from pathlib import Path

import pytest
from kfp import compiler, dsl
from kfp.dsl.types.type_utils import InconsistentTypeException

from pipelines.lint import lint, read_ir


@dsl.component
def made(number: int, model: dsl.Output[dsl.Model]) -> int:
    return number


@dsl.component
def of_text(text: str) -> None:
    pass


@dsl.component
def of_data(data: dsl.Input[dsl.Dataset]) -> None:
    pass


@dsl.component
def of_models(models: dsl.Input[list[dsl.Model]]) -> None:
    pass


def number_for_text() -> None:
    of_text(text=3)


def output_of_another_type() -> None:
    of_text(text=made(number=1).outputs["Output"])


def artifact_of_another_type() -> None:
    of_data(data=made(number=1).outputs["model"])


def one_artifact_for_a_list() -> None:
    of_models(models=made(number=1).outputs["model"])


def no_such_output() -> None:
    made(number=made(number=1).outputs["nosuch"])


def input_left_out() -> None:
    made()


@pytest.mark.parametrize(
    "tasks",
    [
        number_for_text,
        output_of_another_type,
        artifact_of_another_type,
        one_artifact_for_a_list,
        no_such_output,
        input_left_out,
    ],
)
def test_what_the_linter_leaves_to_kfp_is_refused_by_kfp(tasks: Callable[[], None], tmp_path: Path) -> None:
    with pytest.raises((InconsistentTypeException, KeyError, TypeError)):
        compiler.Compiler().compile(dsl.pipeline(tasks), str(tmp_path / "pipeline.yaml"))


def test_a_cycle_is_not_refused_by_kfp(tmp_path: Path) -> None:
    def tasks() -> None:
        first, second = made(number=1), made(number=2)
        first.after(second)
        second.after(first)

    compiler.Compiler().compile(dsl.pipeline(tasks), str(tmp_path / "pipeline.yaml"))

    assert any("is a cycle" in str(problem) for problem in lint(read_ir(tmp_path / "pipeline.yaml")))
