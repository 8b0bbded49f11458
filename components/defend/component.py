"""defend: the hardened model, which is the candidate for release."""

from kfp import dsl

from components import TRAINER_IMAGE, compile_alone


@dsl.component(base_image=TRAINER_IMAGE, install_kfp_package=False)
def defend(
    spec: str,
    data: dsl.Input[dsl.Dataset],
    base: dsl.Input[dsl.Model],
    candidate: dsl.Output[dsl.Model],
    steps: dsl.Output[dsl.Artifact],
) -> None:
    """Hardens the base model against harmful RL fine-tuning.

    With `defence.recipe: none` the candidate is the base model itself, which shows a release without a defence.

    Args:
        spec: The release spec, as YAML text.
        data: Folder of the prompt sets.
        base: The base model.
        candidate: The candidate: the hardened model.
        steps: Folder of the defence's step log; empty with `defence.recipe: none`.
    """
    from pathlib import Path

    from tokenbuncher.core.stage import running

    with running("defend"):
        from tokenbuncher.defence import defend
        from tokenbuncher.settings import parse_spec

        out, log = Path(candidate.path), Path(steps.path)
        defend(parse_spec(spec), Path(data.path), Path(base.path), out=out, steps=log)


if __name__ == "__main__":
    compile_alone(defend)
