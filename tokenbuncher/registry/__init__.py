"""The model registry: candidates are registered in MLflow, and only a proven PASS moves the alias."""

from tokenbuncher.registry._promote import Refused, promote
from tokenbuncher.registry._register import register

__all__ = ["Refused", "promote", "register"]
