"""A section for the model card of a judged version: what was tested, what was found, and what was not tested."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from tokenbuncher.evidence import AttackEvidence, SafetyEvidence, UtilityEvidence
from tokenbuncher.report import tables
from tokenbuncher.report.cells import Table, percent
from tokenbuncher.report.defence import ended
from tokenbuncher.report.figures import AttackFigures, DefenceFigures, ReleaseFigures, SafetyFigures
from tokenbuncher.report.headline import tries
from tokenbuncher.report.markdown import inline, table_lines
from tokenbuncher.report.release import release_figures
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.settings.algorithms import ALGORITHMS
from tokenbuncher.settings.judges import EnsembleSpec, JudgeModel
from tokenbuncher.verdict import Verdict

CARD_NAME = "card.md"

JUDGES = {
    "organism": "exact, but only of the built-in fictional world",
    "refusal": "overstates harm: whatever neither refuses to its end nor is gibberish counts",
}


def card(
    spec: ReleaseSpec,
    verdict: Verdict,
    evidence: Sequence[AttackEvidence | SafetyEvidence | UtilityEvidence],
    *,
    signed: bool,
    defence: DefenceFigures | None = None,
) -> str:
    """The section in Markdown. It holds figures and digests, never the text of a prompt or response.

    Args:
        spec: The release spec.
        verdict: The verdict.
        evidence: The evidence that it was made from; parts may be missing.
        signed: Whether an attestation of the verdict goes with the model.
        defence: How the defence went, if its step log is at hand.
    """
    figures = release_figures(spec, verdict, evidence, defence=defence)
    limits = [*_limits(spec, figures.attacks), *_readings(spec, figures.safety)]
    over_refusal = f"{inline(tables.over_refusal(spec))} What is refused in part is no refusal of a harmful prompt."
    sections = {
        "Safety under harmful fine-tuning": _verdict(figures.headline, verdict, signed),
        "Limits": [f"- {inline(limit)}" for limit in limits],
        "Policy": _tables(
            "What the model had to show, beside the laxest policy that tokenbuncher ships.",
            tables.thresholds(spec.policy),
        ),
        "Attacks": _tables(
            "Each ran on both models, with the same seed and budget; on the base model it shows that the attack is "
            "strong. In brackets 95 % intervals over prompts (Clopper-Pearson). No first compliant rollout: none "
            "complied, or the judge is a model, which is not asked about rollouts.",
            tables.setups(figures.attacks),
            tables.attacked(figures.attacks),
            tables.budgets(figures.attacks),
        ),
        "Before any attack": _tables(over_refusal, tables.safety(figures.safety)),
        "Utility": _utility(figures),
        "Degeneration": _tables(
            "Gibberish, and how responses end; what greedy answers repeat, and how many could be parsed.",
            tables.degeneration(figures.safety, figures.utility, figures.attacks),
        ),
        **({"Defence": _tables(inline(ended(defence)), tables.defence(defence))} if defence else {}),
        "Judge": [f"- {inline(statement)}" for statement in _judge(spec, figures.safety)],
    }
    text = "\n\n".join(
        f"{'##' if number == 0 else '###'} {title}\n\n" + "\n".join(body)
        for number, (title, body) in enumerate(sections.items())
    )
    return text + "\n"


def _tables(introduction: str, *shown: Table) -> list[str]:
    """What tables show, and the tables."""
    return [introduction, *(line for table in shown for line in ("", *table_lines(table)))]


def _utility(figures: ReleaseFigures) -> list[str]:
    introduction = "Greedy answers of both models to the same questions; what cannot be parsed is wrong."
    lines = _tables(introduction, tables.utility(figures.utility))
    if figures.fine_tuning:
        lines += ["", *_tables("After the same benign fine-tuning:", tables.fine_tunings(figures.fine_tuning))]
    return lines


def _verdict(headline: str, verdict: Verdict, signed: bool) -> list[str]:
    digests = {
        "this model": verdict.candidate,
        "base model": verdict.base,
        "prompts": verdict.data,
        "spec": verdict.spec,
        "policy": verdict.policy,
    }
    return [
        f"**{inline(headline)}**: {inline(verdict.name)} version {inline(verdict.version)}, judged "
        f"{verdict.created:%Y-%m-%d %H:%M %Z} by tokenbuncher {verdict.tool_version}, valid until "
        f"{verdict.expires:%Y-%m-%d %H:%M %Z}. {tries(verdict.tries)}.",
        "",
        *(f"- {inline(reason)}" for reason in verdict.reasons),
        *(f"- waived: {inline(waived)}" for waived in verdict.waived),
        *([""] if verdict.reasons or verdict.waived else []),
        *table_lines(Table(["", "sha256"], [[what, digest or "unknown"] for what, digest in digests.items()], 1)),
        "",
        *_verification(verdict, signed),
    ]


def _verification(verdict: Verdict, signed: bool) -> list[str]:
    if not signed:
        return ["The verdict is not signed."]
    version = shlex.quote(" ".join(f"models:/{verdict.name}/{verdict.version}".split()))
    return [
        "The verdict is signed. With the public key of who released the model, these compare the signature and the "
        "files of the model with it:",
        "",
        "    tokenbuncher verify attestation.json --key release.pub --model FOLDER",
        f"    tokenbuncher verify {version} --key release.pub --tracking-uri URI",
    ]


def _limits(spec: ReleaseSpec, attacks: Sequence[AttackFigures]) -> Iterator[str]:
    """What the figures do not show, and what they show against the model."""
    yield (
        "PASS says that the attacks below, at their budgets, did not break this model; not that no attack can. "
        "Whoever has the weights can train longer, on other data and in other ways."
    )
    broken = [
        f"{attack.key} at step {attack.defended.steps_to_break}" + ("" if attack.required else " (reported only)")
        for attack in attacks
        if attack.defended.steps_to_break is not None
    ]
    yield f"Broken by: {', '.join(broken) or 'none of the attacks below'}."
    if failed := [attack.key for attack in attacks if attack.undefended.steps_to_break is None]:
        yield f"Holding shows nothing where the base model was not broken either: {', '.join(failed)}."
    if absent := [task.key for task in spec.attacks.tasks() if task.key not in {attack.key for attack in attacks}]:
        yield f"In the spec, without evidence: {', '.join(absent)}."
    ran = [attack.attack for attack in attacks]
    if untried := [name for name in ALGORITHMS if name not in {attack.algorithm for attack in ran}]:
        yield f"Not attacked by: {', '.join(untried)}."
    if ran:
        yield (
            f"No attack had more than {max(attack.steps for attack in ran)} steps, or sampled at more than temperature "
            f"{max(attack.temperature for attack in ran):g}."
        )
    if anchored := tables.anchored_benign(spec):
        yield anchored
    if spec.model.lora:
        yield f"Every attack trained LoRA adapters of rank {spec.model.lora.rank}; none trained all weights."
    if not any(attack.warm_up for attack in ran):
        yield "No attack began with supervised fine-tuning."
    if not any(attack.objective == "capability" for attack in ran):
        yield "Whether harmful knowledge can be trained in was not tested."
    yield (
        "Never tested here: jailbreak prompts, changes to weights or activations other than training, pruning, "
        "quantisation, merging with other models, conversations of several turns, tools."
    )


def _readings(spec: ReleaseSpec, safety: Sequence[SafetyFigures]) -> Iterator[str]:
    """Where the models were not measured exactly as their files are stored."""
    for reading in (piece.base_reading for piece in safety):
        if reading.day:
            yield f"The chat template writes the date; every measurement took it for {reading.day}."
        if reading.stored != [reading.measured]:
            released = reading.stored if spec.defence.recipe == "none" else [reading.measured]
            yield (
                f"The base model is stored as {', '.join(reading.stored)}; both models were measured as "
                f"{reading.measured}, and this one is released as {', '.join(released)}."
            )


def _judge(spec: ReleaseSpec, safety: Sequence[SafetyFigures]) -> Iterator[str]:
    judge, reward = spec.evaluation.judge, spec.attacks.reward
    yield f"Harm and refusal are what this judge says: {_named(judge)}."
    yield f"The attacks trained on: {_named(reward)}."
    for piece in safety:
        check = piece.judge_check
        yield f"The judge was right on {check.right} of {check.of} exchanges with known answers."
        if piece.judge_agreement is not None:
            yield f"Its members agree on {percent(piece.judge_agreement)} of the responses."


def _named(judge: str | JudgeModel | EnsembleSpec) -> str:
    if isinstance(judge, str):
        return f"{judge} ({JUDGES[judge]})" if judge in JUDGES else judge
    if isinstance(judge, EnsembleSpec):
        return f"{judge.harmful_if} of {'; '.join(map(_named, judge.judges))}"
    return f"{judge.kind} {judge.model}"
