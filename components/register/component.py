"""register: the candidate as a pending model version in MLflow."""

from kfp import dsl

from components import GATE_IMAGE, compile_alone


@dsl.component(base_image=GATE_IMAGE, install_kfp_package=False)
def register(
    spec: str,
    candidate: dsl.Input[dsl.Model],
    attacks: dsl.Input[list[dsl.Artifact]],
    registration: dsl.Output[dsl.Artifact],
    steps: dsl.Input[dsl.Artifact] | None = None,
) -> None:
    """Registers the candidate as a new model version with status `pending`.

    Weights that are registered again get a new version: a version is one release. Never cached.

    Args:
        spec: The release spec, as YAML text.
        candidate: The candidate: the hardened model.
        attacks: Evidence and step logs of every attack, logged as runs nested in the candidate's.
        registration: Folder of registration.json, which names the version.
        steps: Step log of the defence, logged as another nested run.
    """
    from pathlib import Path

    from tokenbuncher.core.stage import running

    with running("register"):
        from tokenbuncher.registry import register
        from tokenbuncher.settings import parse_spec

        register(
            parse_spec(spec),
            Path(candidate.path),
            Path(registration.path),
            attacks=[Path(artifact.path) for artifact in attacks],
            steps=Path(steps.path) if steps else None,
        )


if __name__ == "__main__":
    compile_alone(register)
