"""The release pipeline: harden, attack, evaluate, register, judge, promote.

The same pipeline is compiled for Kubeflow and runs on this machine (pipelines/local/).
"""

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from components.announce.component import announce
from components.controls.component import controls
from components.defend.component import defend
from components.evaluate_safety.component import evaluate_safety
from components.evaluate_utility.component import evaluate_utility
from components.fetch_model.component import fetch_model
from components.gate.component import gate
from components.prepare_data.component import prepare_data
from components.promote.component import promote
from components.register.component import register
from pipelines.attacks import Place, attacks_pipeline


def release_pipeline(place: Place, shared_quarantine: bool = False, parallelism: int | None = None) -> BaseComponent:
    """Composes the pipeline.

    Args:
        place: Says where each task runs.
        shared_quarantine: Whether the attacks have one quarantine, where they find controls measured beside the
            defence; without, each measures its own.
        parallelism: How many attacks run at once; all of them, if None.
    """
    attacks = attacks_pipeline(place, parallelism)

    @dsl.pipeline(name="tokenbuncher-release")
    def release(spec: str) -> None:
        """Releases a model, if it withstands the attacks and is still useful.

        Args:
            spec: The release spec, as YAML text.
        """
        with dsl.ExitHandler(place(announce(spec=spec))):
            base = place(fetch_model(spec=spec)).outputs["model"]
            prepared = place(prepare_data(spec=spec))
            data = prepared.outputs["data"]
            defended = place(defend(spec=spec, data=data, base=base))
            candidate, steps = defended.outputs["candidate"], defended.outputs["steps"]

            attacked = attacks(spec=spec, keys=prepared.outputs["Output"], data=data, base=base, candidate=candidate)
            if shared_quarantine:
                attacked.after(place(controls(spec=spec, data=data, base=base)))
            safety = place(evaluate_safety(spec=spec, data=data, base=base, candidate=candidate))
            utility = place(evaluate_utility(spec=spec, data=data, base=base, candidate=candidate))
            evidence = {
                "attacks": attacked.output,
                "safety": safety.outputs["evidence"],
                "utility": utility.outputs["evidence"],
            }

            registered = place(register(spec=spec, candidate=candidate, attacks=attacked.output, steps=steps))
            registration = registered.after(safety, utility).outputs["registration"]
            judged = place(gate(spec=spec, registration=registration, steps=steps, **evidence))
            verdict = judged.outputs["verdict"]
            place(promote(spec=spec, registration=registration, verdict=verdict, **evidence))

    return release
