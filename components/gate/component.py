"""gate: the verdict on all evidence, by the policy of the spec."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def gate(
    spec: str,
    attacks: dsl.Input[list[dsl.Artifact]],
    safety: dsl.Input[dsl.Artifact],
    utility: dsl.Input[dsl.Artifact],
    registration: dsl.Input[dsl.Artifact],
    verdict: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
) -> None:
    """Judges the release. Succeeds whatever the verdict: the alias is guarded by promote.

    Signs an attestation if the environment variable TOKENBUNCHER_SIGNING_KEY names a private key.

    Args:
        spec: The release spec, as YAML text.
        attacks: Evidence of every attack.
        safety: Evidence of evaluate-safety.
        utility: Evidence of evaluate-utility.
        registration: The registered version that is judged.
        verdict: Folder of verdict.json, report.html, summary.md, junit.xml and, if signed, attestation.json.
        report: The report, where Kubeflow's UI shows it.
    """
    import shutil
    from pathlib import Path

    from tokenbuncher.attestation import signing_key
    from tokenbuncher.gate import gate
    from tokenbuncher.settings import parse_spec
    from tokenbuncher.stage import running

    with running("gate"):
        evidence = [Path(artifact.path) for artifact in [*attacks, safety, utility]]
        gate(parse_spec(spec), evidence, Path(registration.path), Path(verdict.path), signing_key())
        shutil.copyfile(Path(verdict.path) / "report.html", report.path)


if __name__ == "__main__":
    import sys

    from kfp import compiler

    compiler.Compiler().compile(gate, sys.argv[1])
