"""controls: every attack on the base model, while there is no candidate yet."""

from kfp import dsl

from components import TRAINER_IMAGE


@dsl.component(base_image=TRAINER_IMAGE, install_kfp_package=False)
def controls(
    spec: str,
    data: dsl.Input[dsl.Dataset],
    base: dsl.Input[dsl.Model],
    summary: dsl.Output[dsl.Artifact],
) -> None:
    """Runs all attacks on the base model, while the defence trains.

    These controls stay in the quarantine until the attacks use them, so this task and the attack tasks must share it.
    An attack that finds no control there measures it itself. With `output.reuse_controls` they are kept for later
    releases of the same base model.

    Args:
        spec: The release spec, as YAML text.
        data: Folder of the prompt sets.
        base: The base model.
        summary: Folder that says what became of the model under each attack.
    """
    from pathlib import Path

    from tokenbuncher.core.stage import running

    with running("controls"):
        from tokenbuncher.attacks import controls
        from tokenbuncher.settings import parse_spec

        controls(parse_spec(spec), Path(data.path), Path(base.path), out=Path(summary.path))


if __name__ == "__main__":
    import sys

    from kfp import compiler

    compiler.Compiler().compile(controls, sys.argv[1])
