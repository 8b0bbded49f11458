"""evaluate-utility: what the defence costs: paired accuracy, and benign fine-tuning."""

from kfp import dsl

from components import TRAINER_IMAGE


@dsl.component(base_image=TRAINER_IMAGE, install_kfp_package=False)
def evaluate_utility(
    spec: str,
    data: dsl.Input[dsl.Dataset],
    base: dsl.Input[dsl.Model],
    candidate: dsl.Input[dsl.Model],
    evidence: dsl.Output[dsl.Artifact],
) -> None:
    """Measures both models on the same utility questions and under the same benign fine-tuning.

    Both models answer the same questions and are fine-tuned alike, so that the comparison is paired.

    Args:
        spec: The release spec, as YAML text.
        data: Folder of the prompt sets.
        base: The base model.
        candidate: The candidate: the hardened model.
        evidence: Folder of the evidence.
    """
    from pathlib import Path

    from tokenbuncher.core.stage import running

    with running("evaluate-utility"):
        from tokenbuncher.evaluation import evaluate_utility
        from tokenbuncher.settings import parse_spec

        evaluate_utility(
            parse_spec(spec), Path(data.path), Path(base.path), candidate=Path(candidate.path), out=Path(evidence.path)
        )


if __name__ == "__main__":
    import sys

    from kfp import compiler

    compiler.Compiler().compile(evaluate_utility, sys.argv[1])
