"""announce: how the run ended, and where its verdict is."""

from kfp import dsl

from components import GATE_IMAGE


@dsl.component(base_image=GATE_IMAGE, install_kfp_package=False)
def announce(spec: str, status: dsl.PipelineTaskFinalStatus, report: dsl.Output[dsl.HTML], recorded: str = "") -> None:
    """Reports how the run ended, what failed and where the verdict is. Without a verdict it reports INCONCLUSIVE.

    This is the exit task of a pipeline: it runs whether the pipeline succeeds or fails. The gate cannot run after a
    task that failed or was killed. This task then reports which evidence there is and which is missing. Never cached.

    Args:
        spec: The release spec, as YAML text.
        status: How the pipeline ended; given by Kubeflow Pipelines.
        report: What is missing, if there is no verdict, where Kubeflow's UI shows it.
        recorded: Where the evidence is, if not among the outputs of this run.
    """
    from tokenbuncher.core.stage import running

    with running("announce") as logger:
        from pathlib import Path

        from tokenbuncher.gate import conclude
        from tokenbuncher.settings import parse_spec

        release = parse_spec(spec)
        logger.info(f"{status.pipeline_job_resource_name} ended: {status.state}")
        failure = f"the run ended as {status.state} before its gate came to a verdict"
        if status.error_message:
            logger.info(f"{status.pipeline_task_name} failed: {status.error_message}")
            failure += f"; {status.pipeline_task_name}: {status.error_message}"
        if status.state not in ("SUCCEEDED", "COMPLETE"):  # promote has succeeded, so there is a verdict
            conclude(
                release, report.uri.rpartition("/announce/")[0], failure, report=Path(report.path), recorded=recorded
            )
        logger.info("verdict, if it came to one: the outputs `verdict` and `report` of the task gate")
        tracking = release.tracking
        logger.info(
            f"versions of {tracking.model_name}, their verdicts and aliases: `tokenbuncher status`, {tracking.uri}"
        )


if __name__ == "__main__":
    import sys

    from kfp import compiler

    compiler.Compiler().compile(announce, sys.argv[1])
