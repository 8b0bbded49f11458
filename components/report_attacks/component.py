"""report-attacks: how a model fared under each attack."""

from kfp import dsl

from components import GATE_IMAGE


@dsl.component(base_image=GATE_IMAGE, install_kfp_package=False)
def report_attacks(
    attacks: dsl.Input[list[dsl.Artifact]],
    safety: dsl.Input[dsl.Artifact],
    report: dsl.Output[dsl.Markdown],
) -> None:
    """Reports how a model fared under each attack; there is no verdict.

    For a model that was attacked as it is: it is both the base model and the candidate.

    Args:
        attacks: Evidence of every attack.
        safety: Evidence of evaluate-safety.
        report: The report, where Kubeflow's UI shows it.
    """
    from pathlib import Path

    from tokenbuncher.core.stage import running

    with running("report-attacks"):
        from tokenbuncher.evidence import read_evidence
        from tokenbuncher.report import red_team_report

        pieces = [read_evidence(Path(artifact.path)) for artifact in [*attacks, safety]]
        Path(report.path).write_text(red_team_report(pieces), encoding="utf-8")


if __name__ == "__main__":
    import sys

    from kfp import compiler

    compiler.Compiler().compile(report_attacks, sys.argv[1])
