"""register: the candidate as a pending model version in MLflow."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def register(
    spec: str,
    candidate: dsl.Input[dsl.Model],
    registration: dsl.Output[dsl.Artifact],
) -> None:
    """Registers the candidate as a new model version with status `pending`.

    Args:
        spec: The release spec, as YAML text.
        candidate: The hardened model.
        registration: Folder of registration.json, which names the version.
    """
    from pathlib import Path

    from tokenbuncher.registry import register
    from tokenbuncher.settings import parse_spec
    from tokenbuncher.stage import running

    with running("register"):
        register(parse_spec(spec), Path(candidate.path), Path(registration.path))


if __name__ == "__main__":
    import sys

    from kfp import compiler

    compiler.Compiler().compile(register, sys.argv[1])
