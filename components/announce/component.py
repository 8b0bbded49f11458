"""announce: how the run ended, and where its verdict is."""

from kfp import dsl

from components import GATE_IMAGE


@dsl.component(base_image=GATE_IMAGE, install_kfp_package=False)
def announce(spec: str, status: dsl.PipelineTaskFinalStatus) -> None:
    """Tells how the run ended, what failed and where the verdict is.

    The exit task of a pipeline: it runs whether the pipeline succeeds or fails. Never cached.

    Args:
        spec: The release spec, as YAML text.
        status: How the pipeline ended; given by Kubeflow Pipelines.
    """
    from tokenbuncher.settings import parse_spec
    from tokenbuncher.stage import running

    with running("announce"):
        print(f"{status.pipeline_job_resource_name} ended: {status.state}")
        if status.error_message:
            print(f"{status.pipeline_task_name} failed: {status.error_message}")
        print("verdict, if it came to one: the outputs `verdict` and `report` of the task gate")
        tracking = parse_spec(spec).tracking
        print(f"versions of {tracking.model_name}, their verdicts and aliases: `tokenbuncher status`, {tracking.uri}")


if __name__ == "__main__":
    import sys

    from kfp import compiler

    compiler.Compiler().compile(announce, sys.argv[1])
