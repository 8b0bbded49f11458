"""promote: the alias on the registered version, or a refusal."""

from kfp import dsl

from components import GATE_IMAGE


@dsl.component(base_image=GATE_IMAGE, install_kfp_package=False)
def promote(
    spec: str,
    registration: dsl.Input[dsl.Artifact],
    verdict: dsl.Input[dsl.Artifact],
    attacks: dsl.Input[list[dsl.Artifact]] | None = None,
    safety: dsl.Input[dsl.Artifact] | None = None,
    utility: dsl.Input[dsl.Artifact] | None = None,
    recorded: dsl.Input[dsl.Artifact] | None = None,
) -> None:
    """Judges the release again and moves the alias. Fails on anything but a PASS that holds.

    Judges the evidence, compares the result with the gate's verdict, downloads the registered files and hashes them.
    Unless the result is a PASS that holds, it tags the version, leaves the alias and fails, and so does the pipeline.
    Never cached.

    Args:
        spec: The release spec, as YAML text.
        registration: The registered version that is judged.
        verdict: The gate's verdict.
        attacks: Evidence of every attack.
        safety: Evidence of evaluate-safety.
        utility: Evidence of evaluate-utility.
        recorded: All evidence in one folder, at any depth, in place of the three.
    """
    from pathlib import Path

    from tokenbuncher.core.stage import running

    with running("promote"):
        from tokenbuncher.registry import promote
        from tokenbuncher.settings import parse_spec

        evidence = [Path(artifact.path) for artifact in [*(attacks or []), safety, utility, recorded] if artifact]
        promote(parse_spec(spec), evidence, Path(registration.path), verdict=Path(verdict.path))


if __name__ == "__main__":
    import sys

    from kfp import compiler

    compiler.Compiler().compile(promote, sys.argv[1])
