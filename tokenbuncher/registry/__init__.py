"""The model registry: candidates are registered in MLflow, and only a proven PASS moves the alias."""

from tokenbuncher.registry._mlflow import Refused
from tokenbuncher.registry._promote import promote
from tokenbuncher.registry._register import register
from tokenbuncher.registry._versions import ATTESTATION_TAG, attested_version, rollback, status

__all__ = ["ATTESTATION_TAG", "Refused", "attested_version", "promote", "register", "rollback", "status"]
