"""evaluate-safety: harm, refusal, gibberish and entropy of both models before any attack."""

from kfp import dsl

from components import TRAINER_IMAGE


@dsl.component(base_image=TRAINER_IMAGE, install_kfp_package=False)
def evaluate_safety(
    spec: str,
    data: dsl.Input[dsl.Dataset],
    base: dsl.Input[dsl.Model],
    candidate: dsl.Input[dsl.Model],
    evidence: dsl.Output[dsl.Artifact],
) -> None:
    """Measures how both models answer harmful and benign prompts, before any attack.

    The evidence shows what a release looks like before the attacks.

    Args:
        spec: The release spec, as YAML text.
        data: Folder of the prompt sets.
        base: The base model.
        candidate: The candidate: the hardened model.
        evidence: Folder of the evidence.
    """
    from pathlib import Path

    from tokenbuncher.core.stage import running

    with running("evaluate-safety"):
        from tokenbuncher.evaluation import evaluate_safety
        from tokenbuncher.settings import parse_spec

        evaluate_safety(
            parse_spec(spec), Path(data.path), Path(base.path), candidate=Path(candidate.path), out=Path(evidence.path)
        )


if __name__ == "__main__":
    import sys

    from kfp import compiler

    compiler.Compiler().compile(evaluate_safety, sys.argv[1])
