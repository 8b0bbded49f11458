"""promote: the alias on the registered version, or a refusal."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def promote(
    spec: str,
    attacks: dsl.Input[list[dsl.Artifact]],
    safety: dsl.Input[dsl.Artifact],
    utility: dsl.Input[dsl.Artifact],
    registration: dsl.Input[dsl.Artifact],
    verdict: dsl.Input[dsl.Artifact],
) -> None:
    """Judges the release again and moves the alias. Fails on anything but a PASS that holds.

    Args:
        spec: The release spec, as YAML text.
        attacks: Evidence of every attack.
        safety: Evidence of evaluate-safety.
        utility: Evidence of evaluate-utility.
        registration: The registered version that is judged.
        verdict: The gate's verdict.
    """
    from pathlib import Path

    from tokenbuncher.registry import promote
    from tokenbuncher.settings import parse_spec
    from tokenbuncher.stage import running

    with running("promote"):
        evidence = [Path(artifact.path) for artifact in [*attacks, safety, utility]]
        promote(parse_spec(spec), evidence, Path(registration.path), Path(verdict.path))


if __name__ == "__main__":
    import sys

    from kfp import compiler

    compiler.Compiler().compile(promote, sys.argv[1])
