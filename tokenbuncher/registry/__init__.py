"""The model registry: candidates are registered in MLflow, and only a proven PASS moves the alias."""

from tokenbuncher.registry._promote import promote
from tokenbuncher.registry._register import register
from tokenbuncher.registry._verify import verify_version
from tokenbuncher.registry._versions import rollback, status
from tokenbuncher.tracking import Refused, connected

__all__ = ["Refused", "connected", "promote", "register", "rollback", "status", "verify_version"]
