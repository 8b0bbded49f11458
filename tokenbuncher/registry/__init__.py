"""The model registry: candidates are registered in MLflow, and only a proven PASS moves the alias."""

from tokenbuncher.registry._promote import promote
from tokenbuncher.registry._register import register
from tokenbuncher.registry._versions import attested_version, rollback, status
from tokenbuncher.tracking import Refused, connected

__all__ = ["Refused", "attested_version", "connected", "promote", "register", "rollback", "status"]
