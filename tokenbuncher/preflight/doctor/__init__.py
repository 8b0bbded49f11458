"""Whether this machine and its servers are ready for a release, and what to do if not.

    for finding in diagnose(Path("release.yaml")):
        print(finding)           # problem  MLflow at http://mlflow:5000 does not answer; start it, or ...

Asks only: nothing is written, here or on a server.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tokenbuncher.core.errors import UserError
from tokenbuncher.preflight.doctor import _environment, _files, _machine, _servers
from tokenbuncher.preflight.doctor._diagnosis import Diagnosis, ok, problem, warning
from tokenbuncher.settings import ReleaseSpec, load_spec
from tokenbuncher.settings.init import marked_lines

__all__ = ["Diagnosis", "diagnose", "obstacles", "require_files"]

Check = Callable[[], Iterator[Diagnosis]]

SECONDS = 30.0
"""How long a check may take, imports of its libraries included; a request to a server takes much less."""


def diagnose(spec: Path | None = None, kubernetes: bool = False, host: str | None = None) -> Iterator[Diagnosis]:
    """Checks one thing after the other.

    Args:
        spec: A release spec, whose servers, folders and needs are checked; else those of the environment.
        kubernetes: Whether to check the cluster even if the spec trains here.
        host: URL of Kubeflow Pipelines.

    Yields:
        What each check found; a check that fails or is late is a problem, and never an error.
    """
    yield from _within(SECONDS, "packages", _machine.check_packages)
    release = None
    if spec:
        release, found = _read(spec)
        yield from found
    for what, check in _checks(release, kubernetes, host):
        yield from _within(SECONDS, what, check)


def obstacles(release: ReleaseSpec) -> Iterator[Diagnosis]:
    """What speaks against a run of a release on this machine."""
    for what, check in [("packages", _machine.check_packages), *_checks(release, False, None)]:
        yield from (finding for finding in _within(SECONDS, what, check) if finding.level != "ok")


def require_files(release: ReleaseSpec) -> None:
    """Checks before any work that the local files and the variables are there which the spec names.

    Raises:
        UserError: If they are not: a line for each.
    """
    checks = (_files.check_files(release), _environment.check_environment(release))
    missing = [finding for check in checks for finding in check if finding.level != "ok"]
    if missing:
        raise UserError("; ".join(f"{finding.what}" for finding in missing) + f"; {missing[0].remedy}")


def _read(path: Path) -> tuple[ReleaseSpec | None, list[Diagnosis]]:
    try:
        release = load_spec(path)
    except UserError as error:
        return None, [problem(str(error), "correct it; what follows is checked without it")]
    if marked := marked_lines(path):
        remedy = "change them and remove the marks"
        return release, [warning(f"{path} is valid, but has lines marked CHANGE: {marked}", remedy)]
    return release, [ok(f"{path} is a valid release spec")]


def _checks(release: ReleaseSpec | None, kubernetes: bool, host: str | None) -> Iterator[tuple[str, Check]]:
    spec = release or ReleaseSpec()
    named = sorted(set(_texts(release.model_dump(mode="json")))) if release else []
    buckets = sorted({text.split("/")[2] for text in named if text.startswith("s3://")})
    yield "processors", partial(_machine.check_processors, spec.model.device == "cuda")
    if release:
        yield "files", partial(_files.check_files, release)
        yield "environment", partial(_environment.check_environment, release)
    yield "output root", partial(_machine.check_folder, "output root", spec.output.root)
    yield "cache", _machine.check_cache
    uri, environments = spec.tracking.uri, os.environ.get("MLFLOW_TRACKING_URI")
    yield "MLflow", partial(_servers.check_mlflow, uri if release else environments, spec.tracking.alias)
    if release and (models := [text for text in named if text.startswith("models:/")]):
        yield "MLflow", partial(_servers.check_source_registry, models[0], environments)
    elif release and environments and uri is None:
        yield "MLflow", partial(_servers.warn_of_unused, environments)
    yield "S3", partial(_servers.check_s3, buckets)
    yield "Hugging Face hub", partial(_servers.check_hub, [text for text in named if text.startswith("hf://")])
    if kubernetes or spec.compute.kind == "trainjob":
        yield "Kubernetes", partial(_servers.check_kubernetes, spec.compute)
    if host:
        yield "Kubeflow", partial(_servers.check_kubeflow, host)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


def _within(seconds: float, what: str, check: Check) -> list[Diagnosis]:
    """What a check finds; in a thread, which can be left behind."""
    found: list[Diagnosis] = []

    def run() -> None:
        try:
            found.extend(check())
        except ImportError as error:
            remedy = "pip install 'tokenbuncher[registry,pipelines]'"
            found.append(problem(f"{what} cannot be checked: {error}", remedy))
        except Exception as error:
            found.append(problem(f"{what} cannot be checked: {type(error).__name__}: {error}", "mend that first"))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        return [*found, problem(f"{what} takes longer than {seconds:.0f} s", "is the server or the disk there?")]
    return found
