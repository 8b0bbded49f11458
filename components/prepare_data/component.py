"""prepare-data: disjoint prompt sets, checked for leakage."""

from kfp import dsl

from components import TRAINER_IMAGE


@dsl.component(base_image=TRAINER_IMAGE, install_kfp_package=False)
def prepare_data(spec: str, data: dsl.Output[dsl.Dataset]) -> list[str]:
    """Splits the prompts into disjoint sets, and lists the attack tasks.

    Fails if two sets share a prompt, exactly or nearly.

    Args:
        spec: The release spec, as YAML text.
        data: Folder of the prompt sets and their manifest.

    Returns:
        The key of every attack task of the spec.
    """
    from pathlib import Path

    from tokenbuncher.core.stage import running

    with running("prepare-data"):
        from tokenbuncher.attacks.hazard import keep_from_upload
        from tokenbuncher.inputs import prepare_data
        from tokenbuncher.settings import parse_spec

        release = parse_spec(spec)
        keep_from_upload(release, data.uri)  # before the hours of the defence
        prepare_data(release, Path(data.path))
    return [task.key for task in release.attacks.tasks()]


if __name__ == "__main__":
    import sys

    from kfp import compiler

    compiler.Compiler().compile(prepare_data, sys.argv[1])
