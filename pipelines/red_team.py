"""The red-team pipeline: attacks a model as it is and reports how it fell. Nothing is registered or promoted."""

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from components.evaluate_safety.component import evaluate_safety
from components.fetch_model.component import fetch_model
from components.prepare_data.component import prepare_data
from components.report_attacks.component import report_attacks
from pipelines.attacks import Place, attacks_pipeline


def red_team_pipeline(place: Place, parallelism: int | None = None) -> BaseComponent:
    """Composes the pipeline.

    Args:
        place: Says where each task runs.
        parallelism: How many attacks run at once; all of them, if None.
    """
    attacks = attacks_pipeline(place, parallelism)

    @dsl.pipeline(name="tokenbuncher-red-team")
    def red_team(spec: str) -> None:
        """Attacks the model of the spec, which is both base and candidate, and reports.

        Args:
            spec: The release spec, as YAML text; its defence and policy are not used.
        """
        model = place(fetch_model(spec=spec)).outputs["model"]
        prepared = place(prepare_data(spec=spec))
        data = prepared.outputs["data"]
        attacked = attacks(spec=spec, keys=prepared.outputs["Output"], data=data, base=model, candidate=model)
        safety = place(evaluate_safety(spec=spec, data=data, base=model, candidate=model))
        place(report_attacks(attacks=attacked.output, safety=safety.outputs["evidence"]))

    return red_team
