"""The whole pipeline on this machine: the Kubeflow pipeline itself, run by kfp.local, made readable.

verdict = run_local(load_spec("specs/organism.yaml"))
"""

from pipelines.local.folder import check_run_folder
from pipelines.local.outline import outline
from pipelines.local.run import run_local

__all__ = ["check_run_folder", "outline", "run_local"]
