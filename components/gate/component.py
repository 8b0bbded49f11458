"""gate: the verdict on all evidence, by the policy of the spec."""

from kfp import dsl

from components import GATE_IMAGE, compile_alone


@dsl.component(base_image=GATE_IMAGE, install_kfp_package=False)
def gate(
    spec: str,
    registration: dsl.Input[dsl.Artifact],
    verdict: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    attacks: dsl.Input[list[dsl.Artifact]] | None = None,
    safety: dsl.Input[dsl.Artifact] | None = None,
    utility: dsl.Input[dsl.Artifact] | None = None,
    recorded: dsl.Input[dsl.Artifact] | None = None,
    steps: dsl.Input[dsl.Artifact] | None = None,
) -> None:
    """Judges the release. Succeeds whatever the verdict is: promote guards the alias.

    Evidence comes from the stages, or from one folder in which it was recorded. If any is missing, the verdict is
    INCONCLUSIVE. Signs an attestation if the environment variable TOKENBUNCHER_SIGNING_KEY names a private key. Never
    cached.

    Args:
        spec: The release spec, as YAML text.
        registration: The registered version that is judged.
        attacks: Evidence of every attack.
        safety: Evidence of evaluate-safety.
        utility: Evidence of evaluate-utility.
        recorded: All evidence in one folder, at any depth, in place of the three.
        steps: Step log of the defence, which the report shows and no rule sees; if none is given, one in `recorded`.
        verdict: Folder of verdict.json, report.html, report.md, report.json, card.md, junit.xml and, if signed,
            attestation.json.
        report: The report, where Kubeflow's UI shows it.
    """
    import shutil
    from pathlib import Path

    from tokenbuncher.core.stage import running

    with running("gate"):
        from tokenbuncher.attestation import signing_key
        from tokenbuncher.gate import gate
        from tokenbuncher.settings import parse_spec

        evidence = [Path(artifact.path) for artifact in [*(attacks or []), safety, utility, recorded] if artifact]
        gate(
            parse_spec(spec),
            evidence,
            Path(registration.path),
            out=Path(verdict.path),
            signer=signing_key(),
            steps=Path(steps.path) if steps else None,
        )
        shutil.copyfile(Path(verdict.path) / "report.html", report.path)


if __name__ == "__main__":
    compile_alone(gate)
