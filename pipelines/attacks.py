"""The attacks as a pipeline of their own, which other pipelines contain.

kfp.local resolves an upstream task's parameter inside ParallelFor wrongly; here the keys are an input.
"""

from collections.abc import Callable

from kfp import dsl
from kfp.dsl import PipelineTask
from kfp.dsl.base_component import BaseComponent

from components.attack.component import attack

Place = Callable[[PipelineTask], PipelineTask]
"""Says where a task runs; returns it."""


def attacks_pipeline(place: Place, parallelism: int | None = None) -> BaseComponent:
    """Composes the pipeline.

    Args:
        place: Says where each task runs.
        parallelism: How many attacks run at once; all of them, if None.
    """

    @dsl.pipeline(name="attacks")
    def attacks(
        spec: str,
        keys: list[str],
        data: dsl.Input[dsl.Dataset],
        base: dsl.Input[dsl.Model],
        candidate: dsl.Input[dsl.Model],
    ) -> list[dsl.Artifact]:
        """Runs every attack of the spec, each as a task of its own.

        Args:
            spec: The release spec, as YAML text.
            keys: The attack tasks of the spec.
            data: Folder of the prompt sets.
            base: The base model.
            candidate: The hardened model.

        Returns:
            The evidence of every attack.
        """
        with dsl.ParallelFor(keys, parallelism=parallelism) as key:
            attacked = place(attack(spec=spec, key=key, data=data, base=base, candidate=candidate))
        return dsl.Collected(attacked.outputs["evidence"])

    return attacks
