"""The release pipeline: harden, attack, evaluate, register, judge, promote.

    python -m pipelines.release build/release.yaml

The same pipeline is compiled for Kubeflow and runs on this machine (pipelines/local.py). kfp.local resolves
an upstream task's parameter inside ParallelFor wrongly, so the loop over the attacks is a pipeline of its own.
"""

import sys
from pathlib import Path

from kfp import compiler, dsl

from components.attack.component import attack
from components.defend.component import defend
from components.evaluate_safety.component import evaluate_safety
from components.evaluate_utility.component import evaluate_utility
from components.fetch_model.component import fetch_model
from components.gate.component import gate
from components.prepare_data.component import prepare_data
from components.promote.component import promote
from components.register.component import register
from tokenbuncher.errors import UserError


@dsl.pipeline(name="attacks")
def attacks(
    spec: str,
    keys: list[str],
    data: dsl.Input[dsl.Dataset],
    base: dsl.Input[dsl.Model],
    candidate: dsl.Input[dsl.Model],
) -> list[dsl.Artifact]:
    """Runs every attack of the spec, each as a task of its own.

    Args:
        spec: The release spec, as YAML text.
        keys: The attack tasks of the spec.
        data: Folder of the prompt sets.
        base: The undefended model.
        candidate: The hardened model.

    Returns:
        The evidence of every attack.
    """
    with dsl.ParallelFor(keys) as key:
        attacked = attack(spec=spec, key=key, data=data, base=base, candidate=candidate)
    return dsl.Collected(attacked.outputs["evidence"])


@dsl.pipeline(name="tokenbuncher-release")
def release(spec: str) -> None:
    """Releases a model, if it withstands the attacks and is still useful.

    Args:
        spec: The release spec, as YAML text.
    """
    base = fetch_model(spec=spec).outputs["model"]
    prepared = prepare_data(spec=spec)
    data = prepared.outputs["data"]
    candidate = defend(spec=spec, data=data, base=base).outputs["candidate"]

    attacked = attacks(spec=spec, keys=prepared.outputs["Output"], data=data, base=base, candidate=candidate)
    safety = evaluate_safety(spec=spec, data=data, base=base, candidate=candidate)
    utility = evaluate_utility(spec=spec, data=data, base=base, candidate=candidate)
    evidence = {
        "attacks": attacked.output,
        "safety": safety.outputs["evidence"],
        "utility": utility.outputs["evidence"],
    }

    # A cached registration, verdict or promotion would speak for another run.
    registered = register(spec=spec, candidate=candidate, attacks=attacked.output).after(safety, utility)
    registered.set_caching_options(False)
    registration = registered.outputs["registration"]
    judged = gate(spec=spec, registration=registration, **evidence).set_caching_options(False)
    promote(spec=spec, registration=registration, verdict=judged.outputs["verdict"], **evidence).set_caching_options(
        False
    )


def compile_release(path: Path) -> None:
    """Compiles the pipeline to Kubeflow's intermediate representation.

    Args:
        path: The YAML file to be written; its folder is made.

    Raises:
        UserError: If the name does not end in .yaml.
    """
    if path.suffix != ".yaml":
        raise UserError(f"{path}: the compiled pipeline is a .yaml file")
    path.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(release, str(path))


if __name__ == "__main__":
    compile_release(Path(sys.argv[1]))
