"""Runs the release pipeline on this machine, each task in a process of its own.

    python -m pipelines.local spec.yaml artifacts/

For a readable view, and to stop it cleanly, use `tokenbuncher run-local`, which runs this as a child process.
"""

import os
import sys
from pathlib import Path

from kfp import local

from pipelines.release import release_pipeline


def main(spec: Path, artifacts: Path) -> None:
    """Runs the pipeline.

    Args:
        spec: The release spec, a YAML file.
        artifacts: Folder for the outputs of the tasks.

    Raises:
        RuntimeError: If a task fails.
    """
    # The runner replaces the word `python3` in a task's whole command, arguments included, by sys.executable;
    # found by PATH under just that name, it is the same interpreter and no path or spec is garbled.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    sys.executable = "python3"
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(artifacts))
    release_pipeline(place=lambda task: task)(spec=spec.read_text())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
