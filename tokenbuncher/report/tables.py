"""The figures of a release as tables of text, for HTML and Markdown alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tokenbuncher.evidence import CurvePoint, TrainingPoint
from tokenbuncher.report.cells import (
    BASE,
    CANDIDATE,
    NOTHING,
    Bar,
    Column,
    OfModel,
    Table,
    broke,
    fine_percent,
    interval,
    interval_bar,
    judged,
    known,
    needed,
    number,
    of_both,
    percent,
    responses_of,
    short,
    table,
)
from tokenbuncher.report.figures import (
    AskedFigures,
    Attacked,
    AttackFigures,
    DefenceFigures,
    DefencePoint,
    Loss,
    PieceFigures,
    Responses,
    SafetyFigures,
    TaskFigures,
    Tuned,
    TuningFigures,
)
from tokenbuncher.settings import AttackSpec, ReleaseSpec, source_name
from tokenbuncher.settings.attacks import WarmUpSpec
from tokenbuncher.settings.policy import PolicySpec, Waiver, laxer, shipped_policy
from tokenbuncher.settings.prompts import Manifest, SetEntry, SourceEntry
from tokenbuncher.verdict import Finding, Verdict

MOST_LISTED = 20
"""Parts of a field of the policy."""

FINDINGS: list[Column[Finding]] = [
    Column("rule", lambda finding: finding.rule),
    Column("subject", lambda finding: finding.subject),
    Column("outcome", judged),
    Column("measured", lambda finding: number(finding, finding.measured)),
    Column("bound", lambda finding: number(finding, finding.bound)),
    Column("needed", needed),
    Column("prompts", lambda finding: str(finding.prompts or NOTHING)),
    Column("samples", lambda finding: str(finding.samples or NOTHING)),
]


def findings(verdict: Verdict) -> Table:
    """Every finding: those that are required first, and among them the failures first."""
    order = ["BLOCK", "INCONCLUSIVE", "PASS"]
    ranked = sorted(verdict.findings, key=lambda finding: (not finding.required, order.index(finding.outcome)))
    return table(ranked, FINDINGS, labels=3)


def thresholds(policy: PolicySpec) -> Table:
    """Every field of the policy beside the shipped research, the laxest that ships."""
    research, less = shipped_policy("research"), laxer(policy)
    columns: list[Column[str]] = [
        Column("field", str),
        Column("policy", lambda field: _policy_value(getattr(policy, field))),
        Column("research", lambda field: _policy_value(getattr(research, field))),
        Column("asks for", lambda field: "less" if field in less else NOTHING),
    ]
    return table([field for field in PolicySpec.model_fields if field != "apiVersion"], columns)


def _policy_value(value: object) -> str:
    if isinstance(value, list):
        told = [*map(_policy_value, value[:MOST_LISTED]), *([f"{len(value)} in all"] if value[MOST_LISTED:] else [])]
        return "; ".join(told) or "none"
    if isinstance(value, Waiver):
        return f"{value.rule}, {value.subject or 'all'}, {value}"
    if value is None:
        return "no limit"
    return f"{value:g}" if isinstance(value, float) else str(value)


def prompt_sets(manifest: Manifest) -> Table:
    """The sets of prompts."""
    columns: list[Column[tuple[str, SetEntry]]] = [
        Column("set", lambda row: row[0]),
        Column("prompts", lambda row: str(row[1].count)),
        Column("source", lambda row: row[1].source),
        Column("sha256", lambda row: row[1].sha256[:12]),
    ]
    return table(manifest.sets.items(), columns)


def prompt_files(manifest: Manifest) -> Table:
    """The files that prompts were read from."""
    columns: list[Column[tuple[str, SourceEntry]]] = [
        Column("field", lambda row: f"data.{row[0]}"),
        Column("file", lambda row: row[1].location),
        Column("rows", lambda row: str(row[1].rows)),
        Column("duplicates dropped", lambda row: str(row[1].dropped)),
        Column("kept", lambda row: str(row[1].kept)),
        Column("sha256", lambda row: row[1].sha256[:12]),
    ]
    return table(manifest.sources.items(), columns, labels=2)


def defence(figures: DefenceFigures) -> Table:
    """What the defence had reached and cost when it was first measured and when it ended, and what it had to."""
    allowed = [
        "bound",
        "",
        short(figures.target),
        NOTHING,
        "0%",
        "100%",
        fine_percent(figures.max_refusal_mass),
        NOTHING,
    ]
    columns: list[Column[tuple[str, DefencePoint]]] = [
        Column("measured", lambda row: row[0]),
        Column("step", lambda row: str(row[1].step)),
        Column("worst escape", lambda row: short(row[1].escape_max)),
        Column("mean escape", lambda row: short(row[1].escape)),
        Column("above the target", lambda row: fine_percent(row[1].escaping)),
        Column("KL, share of its bound", lambda row: fine_percent(row[1].kl / figures.max_kl)),
        Column("refusal mass added", lambda row: fine_percent(row[1].refusal_mass)),
        Column("refusals added", lambda row: fine_percent(row[1].refusals_added)),
    ]
    shown = table([("first", figures.curve[0]), ("last", figures.curve[-1])], columns)
    return Table(shown.header, [*shown.rows, allowed], shown.labels)


PIECES: list[Column[PieceFigures]] = [
    Column("evidence", lambda piece: piece.name),
    Column("seed", lambda piece: known(piece.seed)),
    Column("spec", lambda piece: piece.spec[:12]),
    Column("data", lambda piece: piece.data[:12]),
    Column("base", lambda piece: piece.base[:12]),
    Column("candidate", lambda piece: piece.candidate[:12]),
    Column("tool", lambda piece: piece.tool_version),
    Column("created", lambda piece: piece.created.isoformat(sep=" ", timespec="seconds")),
]


def pieces(evidence: Sequence[PieceFigures]) -> Table:
    """Where the evidence comes from."""
    return table(evidence, PIECES)


def versions(evidence: Sequence[PieceFigures]) -> Table:
    """What the evidence was measured with; several versions of one package are all named."""
    found: dict[str, set[str]] = {}
    for piece in evidence:
        for name, version in {"tokenbuncher": piece.tool_version, **piece.versions}.items():
            found.setdefault(name, set()).add(version)
    return Table(["package", "version"], [[name, ", ".join(sorted(own))] for name, own in found.items()], labels=1)


def anchored_benign(spec: ReleaseSpec) -> str | None:
    """What over-refusal on the anchor's own kind of prompts leaves open; None if it was measured on others."""
    if spec.data.benign_test != "benign":
        return None
    return (
        f"Benign prompts are from {source_name(spec.data.benign)}, the source that anchors the defence, as the spec "
        "says: the model was taught to answer such prompts, and may refuse others more often."
    )


def over_refusal(spec: ReleaseSpec) -> str:
    """What refusals of harmless prompts are, and where these prompts come from."""
    data = spec.data
    benign = anchored_benign(spec)
    if benign is None:
        source = data.utility if data.benign_test == "utility" else data.benign_test
        benign = (
            f"Benign prompts are from {source_name(source)}, which neither anchors the defence nor aligned the model."
        )
    look_alikes = (
        f"Look-alikes are harmless prompts that look harmful, from {source_name(data.look_alikes)}."
        if data.look_alikes
        else "There are no look-alikes, harmless prompts that look harmful."
    )
    return (
        "Refusal of harmless prompts, in part or whole, is over-refusal; added is what the defence did to it, prompt "
        f"by prompt. {benign} {look_alikes} Worst escape: how likely any other response is, at most, beside the least "
        "certain refusal."
    )


def duels(attacks: Sequence[AttackFigures], most_harm: float | None = None) -> Table:
    """The candidate against the base model, a row for each attack.

    Args:
        attacks: The attacks.
        most_harm: The most harm after an attack that the policy allows.
    """
    columns: list[Column[AttackFigures]] = [
        Column("attack", lambda attack: attack.key),
        Column("outcome", _outcome),
        Column(f"harm, {BASE}", lambda attack: _harm(BASE, attack.undefended)),
        Column(f"harm, {CANDIDATE}", lambda attack: _harm(CANDIDATE, attack.defended, most_harm)),
        Column(f"broke, {BASE}", lambda attack: broke(attack.undefended)),
        Column(f"broke, {CANDIDATE}", lambda attack: broke(attack.defended)),
    ]
    return table(attacks, columns, labels=2)


def _outcome(attack: AttackFigures) -> str:
    if attack.outcome is None:
        return "not judged"
    return attack.outcome + ("" if attack.required else " (reported only)")


def _harm(model: str, arm: Attacked, most: float | None = None) -> str | Bar:
    return interval_bar(model, arm.responses.harm, most) if arm.responses else NOTHING


ATTACKED: list[Column[OfModel[Attacked]]] = [
    Column("attack", lambda row: row.name),
    Column("model", lambda row: row.model),
    Column("harm, worst step", lambda row: known(row.figures.responses, lambda found: interval(found.harm))),
    Column("refusal there", lambda row: known(row.figures.responses, lambda found: interval(found.refusal))),
    Column("gibberish there", lambda row: known(row.figures.responses, lambda found: interval(found.gibberish))),
    Column("refusal at end", lambda row: known(row.figures.refusal_at_end, percent)),
    Column("steps to break", lambda row: broke(row.figures)),
    Column("reward at end", lambda row: f"{row.figures.final_reward:.2f}"),
]


def attacked(attacks: Sequence[AttackFigures]) -> Table:
    """Both models under each attack."""
    return table(_arms(attacks), ATTACKED, labels=2)


BUDGETS: list[Column[OfModel[Attacked]]] = [
    Column("attack", lambda row: row.name),
    Column("model", lambda row: row.model),
    Column("steps", lambda row: str(row.figures.steps_run)),
    Column("rollouts", lambda row: str(row.figures.rollouts)),
    Column("tokens", lambda row: str(row.figures.tokens)),
    Column("first compliant rollout", lambda row: known(row.figures.first_compliant_rollout, str)),
    Column("P(a rollout complies) before", lambda row: _tiny(row, "before")),
    Column("90 % of prompts below", lambda row: _tiny(row, "before_90")),
    Column("after", lambda row: _tiny(row, "after")),
    Column("time", lambda row: f"{row.figures.seconds:.0f} s"),
    Column("CPU time", lambda row: f"{row.figures.cpu_seconds:.0f} s"),
]


def budgets(attacks: Sequence[AttackFigures]) -> Table:
    """What the attacks spent, and how likely compliance was."""
    return table(_arms(attacks), BUDGETS, labels=2)


def _tiny(row: OfModel[Attacked], figure: str) -> str:
    return known(getattr(row.figures.latent, figure, None), lambda probability: f"{probability:.1e}")


def _arms(attacks: Sequence[AttackFigures]) -> list[OfModel[Attacked]]:
    return [row for attack in attacks for row in of_both(attack.key, attack)]


class _Setup(NamedTuple):
    """An attack with all its seeds."""

    attack: AttackSpec
    required: bool
    seeds: list[int]


SETUPS: list[Column[_Setup]] = [
    Column("attack", lambda row: row.attack.name),
    Column("algorithm", lambda row: row.attack.algorithm),
    Column("objective", lambda row: row.attack.objective),
    Column("required", lambda row: "yes" if row.required else "no"),
    Column("seeds", lambda row: ", ".join(map(str, row.seeds))),
    Column("steps", lambda row: str(row.attack.steps)),
    Column("prompts a step", lambda row: str(row.attack.prompts_per_step)),
    Column("rollouts a prompt", lambda row: str(row.attack.rollouts) if row.attack.sampled(1) else NOTHING),
    Column("prompts", lambda row: str(row.attack.prompts or "all")),
    Column("learning rate", lambda row: _rates(row.attack)),
    Column("temperature", lambda row: f"{row.attack.temperature:g}"),
    Column(
        "fine-tuned first",
        lambda row: known(
            row.attack.warm_up, lambda first: f"{first.steps} steps on {first.examples} {first.answers} answers"
        ),
    ),
    Column("hyperparameters", lambda row: _hyperparameters(row.attack)),
]


def setups(attacks: Sequence[AttackFigures]) -> Table:
    """What each attack was, with its seeds."""
    same: dict[str, _Setup] = {}
    for run in attacks:
        same.setdefault(run.attack.model_dump_json(), _Setup(run.attack, run.required, [])).seeds.append(run.seed)
    return table(same.values(), SETUPS, labels=4)


def _warm_up(first: WarmUpSpec) -> str:
    return f"{first.steps} steps on {first.examples} {first.answers} answers"


def _hyperparameters(attack: AttackSpec) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in attack.hyperparameters) or NOTHING


def _rates(attack: AttackSpec) -> str:
    rates = attack.learning_rate if isinstance(attack.learning_rate, list) else [attack.learning_rate]
    return ", ".join(f"{rate:g}" for rate in rates)


class _Measured(NamedTuple):
    """One model at a step of an attack, as far as it was measured there."""

    point: CurvePoint | None
    training: TrainingPoint | None


MEASURED: list[Column[_Measured]] = [
    Column("harm", lambda at: known(at.point, lambda point: percent(point.harm))),
    Column("refusal", lambda at: known(at.point, lambda point: percent(point.refusal))),
    Column("gibberish", lambda at: known(at.point, lambda point: percent(point.gibberish))),
    Column("entropy", lambda at: known(at.point, lambda point: short(point.entropy))),
    Column("reward", lambda at: known(at.training.reward if at.training else None, short)),
    Column("zero variance", lambda at: known(at.training.zero_variance if at.training else None, percent)),
]


def curves(attack: AttackFigures) -> Table:
    """What was measured while both models were attacked, by step; reward and zero variance are of the step before."""
    arms = [
        ({point.step: point for point in arm.curve}, {point.step: point for point in arm.training})
        for arm in (attack.undefended, attack.defended)
    ]
    rows = []
    for step in sorted({step for curve, _ in arms for step in curve}):
        models = [_Measured(curve.get(step), training.get(step)) for curve, training in arms]
        rows.append([str(step), *(column.cell(model) for column in MEASURED for model in models)])
    titles = [f"{column.title}, {model}" for column in MEASURED for model in (BASE, CANDIDATE)]
    return Table(["step", *titles], rows, labels=1)


def safety(pieces: Sequence[SafetyFigures]) -> Table:
    """Both models before any attack."""

    def responses(text: Callable[[Responses], str]) -> Callable[[tuple[OfModel[Responses | None], AskedFigures]], str]:
        return lambda row: known(row[0].figures, text)

    def added(row: tuple[OfModel[Responses | None], AskedFigures]) -> str:
        return known(row[1].refusals_added if row[0].model == CANDIDATE else None, interval)

    columns: list[Column[tuple[OfModel[Responses | None], AskedFigures]]] = [
        Column("prompts", lambda row: row[0].name.removesuffix(" prompts")),
        Column("model", lambda row: row[0].model),
        Column("harm", responses(lambda found: interval(found.harm))),
        Column("refusal", responses(lambda found: interval(found.refusal))),
        Column("refused in part", responses(lambda found: interval(found.partial))),
        Column(
            "refusal added", lambda row: known(row[1].refusals_added if row[0].model == CANDIDATE else None, interval)
        ),
        Column("entropy", responses(lambda found: short(found.entropy))),
        Column("first token", responses(lambda found: short(found.first_entropy))),
        Column("worst escape", responses(lambda found: known(found.escape, fine_percent))),
    ]
    rows = [(row, asked) for piece in pieces for prompts, asked in _asked(piece) for row in of_both(prompts, asked)]
    return table(rows, columns, labels=2)


def _asked(piece: SafetyFigures) -> list[tuple[str, AskedFigures]]:
    """What was asked before any attack, and what came of it."""
    look_alikes = [("look-alikes", piece.look_alikes)] if piece.look_alikes else []
    return [("harmful prompts", piece.harmful), ("benign prompts", piece.benign), *look_alikes]


DEGENERATION: list[Column[OfModel[Any]]] = [
    Column("where", lambda row: row.name),
    Column("model", lambda row: row.model),
    Column("gibberish", lambda row: known(getattr(row.figures, "gibberish", None), interval)),
    Column("finished", lambda row: known(getattr(row.figures, "finished", None), percent)),
    Column("tokens", lambda row: known(getattr(row.figures, "tokens", None), lambda tokens: f"{tokens:.1f}")),
    Column("repeated", lambda row: known(getattr(row.figures, "repetition", None), percent)),
    Column("parsed", lambda row: known(getattr(row.figures, "parsed", None), percent)),
]


def degeneration(
    safety: Sequence[SafetyFigures], tasks: Sequence[TaskFigures], attacks: Sequence[AttackFigures]
) -> Table:
    """Whether both models still write language: before any attack, under attack, and in their answers."""
    rows: list[OfModel[Any]] = [row for piece in safety for asked in _asked(piece) for row in of_both(*asked)]
    rows += [row for attack in attacks for row in of_both(f"harmful prompts, {attack.key}", responses_of(attack))]
    rows += [row for task in tasks for row in of_both(task.task, task)]
    return table(rows, DEGENERATION, labels=2)


UTILITY: list[Column[TaskFigures]] = [
    Column("task", lambda task: task.task),
    Column(f"accuracy, {BASE}", lambda task: known(task.undefended, lambda answers: interval(answers.accuracy))),
    Column(f"accuracy, {CANDIDATE}", lambda task: known(task.defended, lambda answers: interval(answers.accuracy))),
    Column("lost", lambda task: known(task.loss, interval)),
    Column("worse", lambda task: known(task.loss, lambda loss: str(loss.lost))),
    Column("better", lambda task: known(task.loss, lambda loss: str(loss.gained))),
    Column("questions", lambda task: known(task.loss, lambda loss: str(loss.questions))),
]


def utility(tasks: Sequence[TaskFigures]) -> Table:
    """Both models on each task."""
    return table(tasks, UTILITY)


TUNED: list[Column[tuple[OfModel[Tuned], Loss | None]]] = [
    Column("fine-tuning", lambda row: row[0].name),
    Column("model", lambda row: row[0].model),
    Column("accuracy before", lambda row: known(row[0].figures.before, percent)),
    Column("accuracy after", lambda row: known(row[0].figures.after, interval)),
    Column("lost", lambda row: known(row[1] if row[0].model == CANDIDATE else None, interval)),
    Column("refusal after", lambda row: percent(row[0].figures.refusal)),
]


def fine_tunings(tunings: Sequence[TuningFigures]) -> Table:
    """Both models after benign fine-tuning."""
    return table([(row, tuning.loss) for tuning in tunings for row in of_both(tuning.kind, tuning)], TUNED, labels=2)
