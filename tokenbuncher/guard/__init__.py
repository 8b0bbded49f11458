"""The guard: an MLflow registry store that gives a protected alias or stage only to versions with a valid attestation.

    TOKENBUNCHER_GUARD=guard.yaml mlflow server --backend-store-uri postgresql://... \\
        --registry-store-uri guarded-postgresql://...

It runs inside the server, so that every client meets it: Python, REST, the user interface. What it cannot see is a
change made in the database or the artifact store directly; who serves a model verifies it again.
"""

from tokenbuncher.guard.check import check_version
from tokenbuncher.guard.settings import GUARD, GuardSettings, Protected, load_guard

__all__ = ["GUARD", "GuardSettings", "Protected", "check_version", "load_guard"]
