"""Moves the alias to a registered version, on nothing but a PASS that it has re-checked itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tokenbuncher.errors import UserError
from tokenbuncher.evidence import Registration, read_all_evidence, read_registration
from tokenbuncher.files import folder_digest
from tokenbuncher.registry._mlflow import connected
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.verdict import FILE_NAME, Outcome, Verdict, judge_release, read_verdict

if TYPE_CHECKING:
    from mlflow import MlflowClient

REPORT_NAME = "report.html"


class Refused(UserError):
    """The alias was not moved; `outcome` is what the release came to."""

    def __init__(self, outcome: Outcome, message: str) -> None:
        super().__init__(f"{outcome}: {message}")
        self.outcome = outcome


def promote(spec: ReleaseSpec, evidence: Sequence[Path], registration: Path, verdict: Path) -> None:
    """Moves the alias to the registered version, if its verdict is a PASS that holds.

    The release is judged again from the evidence, and the version's files are downloaded from the registry and
    hashed. The outcome is tagged on the version, and a verdict that holds is kept with it, report beside it.

    Args:
        spec: The release spec that the evidence was measured under.
        evidence: The evidence files, or the folders that hold them.
        registration: registration.json, or its folder.
        verdict: verdict.json, or its folder.

    Raises:
        Refused: On BLOCK, INCONCLUSIVE, or a PASS that does not hold; the alias stays where it is.
        UserError: If registration or verdict cannot be read, or MLflow refuses or cannot be reached.
    """
    registered = read_registration(registration)
    if (registered.name, registered.tracking_uri) != (spec.tracking.model_name, spec.tracking_uri()):
        raise UserError(
            f"{registration} is about {registered.name} at {registered.tracking_uri}, but the spec about "
            f"{spec.tracking.model_name} at {spec.tracking_uri()}; promote with the spec it was registered with"
        )
    subject = f"{registered.name} version {registered.version}"
    pieces, unreadable = read_all_evidence(evidence)
    judged = judge_release(spec, pieces, registered, unreadable)
    with connected(spec) as client:
        differing = list(_differences(verdict, judged))
        doubts = [*differing, *_changes(client, registered, spec.tracking_uri())]
        outcome = Outcome.INCONCLUSIVE if doubts and judged.outcome is Outcome.PASS else judged.outcome
        if not differing:
            _keep(client, registered, verdict)
        _tag(client, registered, verdict=outcome, base=judged.base, data=judged.data)
        if outcome is not Outcome.PASS:
            _tag(client, registered, status="refused")
            reason = "; ".join(doubts) or "the verdict tells why"
            raise Refused(outcome, f"{spec.tracking.alias} was not moved to {subject}: {reason}")
        client.set_registered_model_alias(registered.name, spec.tracking.alias, registered.version)
        _tag(client, registered, status="promoted")
    print(f"{spec.tracking.alias} is {subject}")


def _differences(path: Path, judged: Verdict) -> Iterator[str]:
    """Why the verdict of that file is not the one that the evidence gives."""
    try:
        given = read_verdict(path)
    except UserError as error:
        yield str(error)
        return
    ours, theirs = judged.model_dump(exclude={"created"}), given.model_dump(exclude={"created"})
    differing = [field for field in ours if ours[field] != theirs[field]]
    if differing:
        yield f"{path} is not the verdict on this release, other {', '.join(differing)}; run gate again"


def _changes(client: MlflowClient, registered: Registration, uri: str) -> Iterator[str]:
    """Why the files in the registry are not the ones that were registered and judged."""
    from mlflow.artifacts import download_artifacts

    source = client.get_model_version_download_uri(registered.name, registered.version)
    with TemporaryDirectory() as scratch:
        files = download_artifacts(artifact_uri=source, dst_path=scratch, tracking_uri=uri, registry_uri=uri)
        digest = folder_digest(Path(files))
    if digest != registered.digest:
        yield (
            f"the files of {registered.name} version {registered.version} have sha256 {digest[:12]}, not the "
            f"registered {registered.digest[:12]}: they were changed; register the candidate again"
        )


def _keep(client: MlflowClient, registered: Registration, verdict: Path) -> None:
    """Keeps the verdict, and the report beside it, with the run of the version."""
    run = client.get_model_version(registered.name, registered.version).run_id
    verdict = verdict / FILE_NAME if verdict.is_dir() else verdict
    for path in (verdict, verdict.with_name(REPORT_NAME)):
        if path.is_file():
            client.log_artifact(run, str(path))


def _tag(client: MlflowClient, registered: Registration, **tags: str | None) -> None:
    for name, value in tags.items():
        if value is not None:
            client.set_model_version_tag(registered.name, registered.version, f"tokenbuncher.{name}", value)
