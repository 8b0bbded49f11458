"""The gate-only pipeline: judges a registered version from recorded evidence, and promotes it."""

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from components.announce.component import announce
from components.gate.component import gate
from components.promote.component import promote
from pipelines.attacks import Place


def gate_only_pipeline(place: Place) -> BaseComponent:
    """Composes the pipeline.

    Args:
        place: Says where each task runs.
    """

    @dsl.pipeline(name="tokenbuncher-gate-only")
    def gate_only(spec: str, evidence: str, registration: str) -> None:
        """Judges a registered version by the policy of the spec, and promotes it on a PASS.

        Args:
            spec: The release spec that the evidence was measured under, as YAML text.
            evidence: URI of a folder with all evidence, at any depth.
            registration: URI of the folder written by register.
        """
        with dsl.ExitHandler(place(announce(spec=spec, recorded=evidence))):
            recorded = dsl.importer(artifact_uri=evidence, artifact_class=dsl.Artifact, reimport=True).output
            registered = dsl.importer(artifact_uri=registration, artifact_class=dsl.Artifact, reimport=True).output
            verdict = place(gate(spec=spec, registration=registered, recorded=recorded)).outputs["verdict"]
            place(promote(spec=spec, registration=registered, verdict=verdict, recorded=recorded))

    return gate_only
