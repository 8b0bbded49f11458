"""The model registry: candidates are registered in MLflow, and only a proven PASS moves the alias."""

from tokenbuncher.registry._promote import promote
from tokenbuncher.registry._refused import Refused
from tokenbuncher.registry._register import register
from tokenbuncher.registry._verify import verify_version
from tokenbuncher.registry._versions import rollback, status

__all__ = ["Refused", "promote", "register", "rollback", "status", "verify_version"]
