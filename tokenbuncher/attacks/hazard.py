"""Attacked weights never lie where a pipeline uploads its outputs."""

from __future__ import annotations

from tokenbuncher.core.errors import UserError
from tokenbuncher.settings import ReleaseSpec


def refuse_kept_weights(spec: ReleaseSpec) -> None:
    """Refuses to keep attacked weights on Kubeflow.

    Raises:
        UserError: If the spec says so.
    """
    if spec.attacks.keep_checkpoints:
        raise UserError(
            "attacks.keep_checkpoints: attacked weights must not leave the quarantine, and Kubeflow Pipelines would "
            "upload them with the outputs of the attacks; set it to false, or attack on a machine of yours"
        )


def keep_from_upload(spec: ReleaseSpec, output: str) -> None:
    """Refuses to keep attacked weights if outputs are uploaded.

    Args:
        spec: The release spec.
        output: URI of an output of the task; that of kfp.local is a path.

    Raises:
        UserError: If the weights would be among them.
    """
    if "://" in output:
        refuse_kept_weights(spec)
