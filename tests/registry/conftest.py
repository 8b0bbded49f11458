"""A candidate, a registry, and the evidence about what is registered in it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from securesystemslib.signer import CryptoSigner

from tests.evidence_factory import Release, passing_release, release_spec
from tokenbuncher.attestation import FILE_NAME as ATTESTATION_NAME
from tokenbuncher.attestation import sign
from tokenbuncher.core.files import whole_folder
from tokenbuncher.gate import gate
from tokenbuncher.registry import promote, register
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.storage.tracking import alias_holder
from tokenbuncher.verdict import FILE_NAME, judge_release


@pytest.fixture
def spec(embedded_root: Path, request: pytest.FixtureRequest) -> ReleaseSpec:
    """A release of a model of its own in the embedded database."""
    name = re.sub(r"\W+", "-", request.node.name)
    return release_spec(tracking={"model_name": name}, output={"root": str(embedded_root)})


@pytest.fixture
def candidate(tmp_path: Path) -> Path:
    """A model folder; the registry does not look into it."""
    folder = tmp_path / "candidate"
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(range(256)))
    (folder / "tokenizer" / "tokenizer.json").write_text("{}", encoding="utf-8")
    return folder


@dataclass
class Registered:
    """A registered version with all that a promotion needs."""

    release: Release
    evidence: list[Path]
    registration: Path
    verdict: Path

    @property
    def client(self) -> MlflowClient:
        """A client of the release's registry."""
        uri = self.release.spec.tracking_uri()
        return MlflowClient(uri, uri)

    @property
    def version(self) -> ModelVersion:
        """The registered version, as the registry knows it now."""
        return self.client.get_model_version(self.release.registration.name, self.release.registration.version)

    @property
    def champion(self) -> str | None:
        """The version that the alias is on."""
        return alias_holder(self.client, self.release.registration.name, self.release.spec.tracking.alias)

    def artifacts(self) -> dict[str, bytes]:
        """What is kept with the version beside its model."""
        run = self.version.run_id
        files = [f.path for f in self.client.list_artifacts(run) if not f.is_dir]
        with TemporaryDirectory() as scratch:
            return {path: Path(self.client.download_artifacts(run, path, scratch)).read_bytes() for path in files}

    def promote(self, spec: ReleaseSpec | None = None, dry_run: bool = False) -> None:
        """Promotes the version."""
        promote(spec or self.release.spec, self.evidence, self.registration, verdict=self.verdict, dry_run=dry_run)


def judged(release: Release, folder: Path, registration: Path, *, signer: CryptoSigner | None) -> Registered:
    """The release with its evidence, and the verdict as the gate gives it, but for the reports: they take longest."""
    evidence, _ = release.write(folder)
    verdict = judge_release(release.spec, release.evidence, release.registration)
    with whole_folder(folder / "verdict") as out:
        (out / FILE_NAME).write_text(verdict.model_dump_json(indent=1), encoding="utf-8")
        if signer:
            attestation = sign(release.spec, release.evidence, release.registration, verdict=verdict, signer=signer)
            (out / ATTESTATION_NAME).write_text(attestation, encoding="utf-8")
    return Registered(release, evidence, registration, folder / "verdict")


@pytest.fixture
def enter(candidate: Path, tmp_path: Path) -> Callable[..., Registered]:
    """Registers the candidate under a spec and judges it by passing evidence, which may be spoilt first."""

    def enter(
        spec: ReleaseSpec,
        spoil: Callable[[Release], Release] = lambda release: release,
        signer: CryptoSigner | None = None,
    ) -> Registered:
        folder = tmp_path / f"release-{len(list(tmp_path.iterdir()))}"
        registration = register(spec, candidate, folder / "registration")
        release = replace(spoil(passing_release(spec)).about(registration.digest), registration=registration)
        return judged(release, folder, folder / "registration", signer=signer)

    return enter


@pytest.fixture
def reported(enter: Callable[..., Registered]) -> Callable[..., Registered]:
    """Registers the candidate and has the gate itself judge it, which writes its reports beside the verdict."""

    def reported(spec: ReleaseSpec, *spoil: Callable[[Release], Release]) -> Registered:
        registered = enter(spec, *spoil)
        gate(spec, registered.evidence, registered.registration, out=registered.verdict)
        return registered

    return reported


@pytest.fixture
def judge_again(tmp_path: Path) -> Callable[..., Registered]:
    """Judges a registered version anew, by evidence that may be spoilt."""

    def judge_again(
        registered: Registered, spoil: Callable[[Release], Release], signer: CryptoSigner | None = None
    ) -> Registered:
        folder = tmp_path / f"again-{len(list(tmp_path.iterdir()))}"
        registration = registered.release.registration
        passing = spoil(passing_release(registered.release.spec))
        release = replace(passing.about(registration.digest), registration=registration)
        return judged(release, folder, registered.registration, signer=signer)

    return judge_again
