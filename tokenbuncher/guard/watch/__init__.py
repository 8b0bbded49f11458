"""The watcher, for MLflow servers that cannot have the guard: it sees who has what is protected, and takes it back.

    with connected(uri) as client, stopped_by_signals() as stop:
        check = attestation_check(client, Path("guard.yaml"))
        watcher = Watcher(client, partial(load_guard, Path("guard.yaml")), check, revert=True)
        watch(watcher, "0.0.0.0:8080", 300, secret, stop)

It acts after the fact: for the second or so until then, the alias is where it must not be. The guard refuses instead.
"""

from tokenbuncher.guard.watch.check import attestation_check
from tokenbuncher.guard.watch.service import Place, Report, Watcher, poll, serve, stopped_by_signals, watch
from tokenbuncher.guard.watch.webhook import AliasMove, Rejected, SeenDeliveries, read_delivery

__all__ = [
    "AliasMove",
    "Place",
    "Rejected",
    "Report",
    "SeenDeliveries",
    "Watcher",
    "attestation_check",
    "poll",
    "read_delivery",
    "serve",
    "stopped_by_signals",
    "watch",
]
