"""controls: every attack on the undefended model, measured while there is no candidate yet."""

from kfp import dsl

from components import TRAINER_IMAGE, compile_alone


@dsl.component(base_image=TRAINER_IMAGE, install_kfp_package=False)
def controls(
    spec: str,
    data: dsl.Input[dsl.Dataset],
    base: dsl.Input[dsl.Model],
    summary: dsl.Output[dsl.Artifact],
) -> None:
    """Measures the positive controls of all attacks, beside the defence.

    They lie in the quarantine until the attacks use them, so this task must share it with the tasks attack; an attack
    that finds no control there measures it itself. With `output.reuse_controls` they stay for later releases of the
    same base.

    Args:
        spec: The release spec, as YAML text.
        data: Folder of the prompt sets.
        base: The undefended model.
        summary: Folder that says what became of the model under each attack.
    """
    from pathlib import Path

    from tokenbuncher.core.stage import running

    with running("controls"):
        from tokenbuncher.attacks import controls
        from tokenbuncher.settings import parse_spec

        controls(parse_spec(spec), Path(data.path), Path(base.path), out=Path(summary.path))


if __name__ == "__main__":
    compile_alone(controls)
