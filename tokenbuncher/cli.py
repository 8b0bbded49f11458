"""The command line: one command for each stage, and the whole pipeline on this machine.

Imports nothing heavy: each command loads what it needs when it runs.
"""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import click

from tokenbuncher.environment import quiet_libraries
from tokenbuncher.errors import UserError
from tokenbuncher.settings import ReleaseSpec, load_spec

EXIT_CODES = {"PASS": 0, "BLOCK": 1, "INCONCLUSIVE": 2}
INTERRUPTED = 130


class Door(click.Command):
    """A command whose output never takes the place of its input."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command, unless the folder it would write holds what it would read."""
        out = ctx.params.get("out")
        given = [value for name, value in ctx.params.items() if name != "out"]
        read = [path for value in given for path in (value if isinstance(value, tuple) else (value,))]
        if out and any(isinstance(path, Path) and path.resolve().is_relative_to(out.resolve()) for path in read):
            raise UserError(f"{out} would be replaced, and holds what the command reads; choose another --out")
        return super().invoke(ctx)


class Doors(click.Group):
    """Commands whose errors are told in a line, without a traceback."""

    command_class = Door

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; 2 on the user's error, 130 on an interrupt."""
        try:
            return super().invoke(ctx)
        except UserError as error:
            _fail(ctx, f"error: {error}", 2)
        except KeyboardInterrupt:
            _fail(ctx, "interrupted; nothing is left running, the same command starts afresh", INTERRUPTED)
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            _fail(ctx, f"error: {error}", 2)


def _fail(ctx: click.Context, message: str, status: int) -> NoReturn:
    click.echo(message, err=True)
    ctx.exit(status)


def _spec_options(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="FIELD.PATH=VALUE",
        help="Change a field of the spec; may be given again.",
    )(command)
    return click.option("--spec", required=True, type=_FILE, help="The release spec, a YAML file.")(command)


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_EXISTING = click.Path(exists=True, path_type=Path)
_NEW = click.Path(path_type=Path)
_COUNT = click.IntRange(min=1)
_SIZE = click.FloatRange(min=0, min_open=True)

_own_policy = click.option("--policy", type=_FILE, help="A policy file, instead of the policy in the spec.")
_data = click.option("--data", required=True, type=_FOLDER, help="Folder written by prepare-data.")
_base = click.option("--base", required=True, type=_FOLDER, help="Model folder written by fetch-model.")
_candidate = click.option("--candidate", required=True, type=_FOLDER, help="Model folder written by defend.")
_out = click.option("--out", required=True, type=_NEW, help="Folder to be written; replaced if it exists.")
_placement = click.option(
    "--placement", type=_FILE, help="Images, resources, secrets and volumes of the tasks, a YAML file."
)


def _release_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What makes a recorded release: a run's folder alone, or its parts one by one."""
    for option in (
        click.option("--registration", type=_EXISTING, help="Folder written by register; else below the evidence."),
        _own_policy,
        click.option(
            "--set", "overrides", multiple=True, metavar="FIELD.PATH=VALUE", help="Change a field of the spec."
        ),
        click.option("--spec", type=_FILE, help="The release spec; else spec.yaml in the evidence folder."),
        click.option(
            "--evidence",
            required=True,
            multiple=True,
            type=_EXISTING,
            help="Folder of a run; or folder of each attack, of evaluate-safety and of evaluate-utility.",
        ),
    ):
        command = option(command)
    return command


class RecordedRelease(NamedTuple):
    """A recorded release, found."""

    spec: ReleaseSpec
    evidence: tuple[Path, ...]
    registration: Path

    @classmethod
    def found(
        cls,
        evidence: tuple[Path, ...],
        spec: Path | None,
        overrides: tuple[str, ...],
        policy: Path | None,
        registration: Path | None,
    ) -> RecordedRelease:
        run = evidence[0] if len(evidence) == 1 and evidence[0].is_dir() else None
        if spec is None and run and (run / "spec.yaml").is_file():
            spec = run / "spec.yaml"
        if spec is None:
            raise UserError("which release is it? Give --spec, or as --evidence one folder that holds its spec.yaml")
        if registration is None and run is None:
            raise UserError("which version is it? Give --registration, or as --evidence the one folder of a run")
        return cls(load_spec(spec, overrides, policy), evidence, registration or run or Path())


@click.group(cls=Doors)
def main() -> None:
    """Release gate against harmful RL fine-tuning of language models.

    A model gets the registry's alias only if it was attacked as an attacker would, the attacks were shown to be
    strong, it held, and it is still useful.

    Exit status: 0 done or PASS, 1 BLOCK, 2 INCONCLUSIVE or an error, 130 interrupted.

    \b
    Completion by the Tab key, in ~/.bashrc (or zsh_source in ~/.zshrc, fish_source in fish):
      eval "$(_TOKENBUNCHER_COMPLETE=bash_source tokenbuncher)"
    """
    quiet_libraries()


@main.command()
@click.option(
    "--model", "kind", required=True, type=click.Choice(["organism", "hf", "s3", "mlflow"]), help="Where it comes from."
)
@click.option("--out", required=True, type=_NEW, help="The spec to be written, a YAML file that does not exist yet.")
def init(kind: str, out: Path) -> None:
    """Write a commented release spec to begin with.

    Needs nothing. The spec is valid; lines that are yours to fill in are marked CHANGE.

    \b
    Examples:
      tokenbuncher init --model organism --out release.yaml
      tokenbuncher init --model hf --out release.yaml
    """
    from tokenbuncher.init import write_spec

    write_spec(kind, out)
    _wrote(out)


@main.command()
@click.option("--spec", type=_FILE, help="A release spec, whose servers and folders are checked.")
@click.option("--kubernetes", is_flag=True, help="Check the cluster, even if the spec trains here.")
@click.option("--host", help="URL of Kubeflow Pipelines, to be checked too.")
@click.pass_context
def doctor(ctx: click.Context, spec: Path | None, kubernetes: bool, host: str | None) -> None:
    """Check this machine and the servers, and tell what to do.

    Needs nothing, and writes nothing. Without a spec, the servers that the environment names are checked.
    Exit status: 0 nothing is wrong, though there may be warnings; 1 there is a problem.

    \b
    Examples:
      tokenbuncher doctor
      tokenbuncher doctor --spec release.yaml --host https://kubeflow.example/pipeline
    """
    from tokenbuncher.doctor import diagnose

    problems = 0
    for finding in diagnose(spec, kubernetes, host):
        click.echo(finding)
        problems += finding.level == "problem"
    ctx.exit(1 if problems else 0)


@main.command()
@_spec_options
@_out
def fetch_model(spec: Path, overrides: tuple[str, ...], out: Path) -> None:
    """Fetch the undefended model and check that it loads.

    Needs the spec's model source: organism://, smollm2:// or a local folder.

    \b
    Example:
      tokenbuncher fetch-model --spec specs/organism.yaml --out work/base
    """
    from tokenbuncher.models import fetch_model

    fetch_model(load_spec(spec, overrides), out)
    _wrote(out)


@main.command()
@_spec_options
@_out
def prepare_data(spec: Path, overrides: tuple[str, ...], out: Path) -> None:
    """Split the prompts into disjoint sets and check them for leakage.

    Needs the prompt files that the spec names; the organism's prompts are built in.

    \b
    Example:
      tokenbuncher prepare-data --spec specs/organism.yaml --out work/data
    """
    from tokenbuncher.data import prepare_data

    prepare_data(load_spec(spec, overrides), out)
    _wrote(out)


@main.command()
@_spec_options
@_data
@_base
@_out
def defend(spec: Path, overrides: tuple[str, ...], data: Path, base: Path, out: Path) -> None:
    """Harden the model against harmful RL fine-tuning.

    Needs the folders of prepare-data and fetch-model.

    \b
    Example:
      tokenbuncher defend --spec specs/organism.yaml --data work/data --base work/base --out work/candidate
    """
    from tokenbuncher.defence import defend

    defend(load_spec(spec, overrides), data, base, out)
    _wrote(out)


@main.command()
@_spec_options
@click.option("--key", required=True, help="Which attack of the spec: its name and seed, such as grpo-1000.")
@_data
@_base
@_candidate
@_out
def attack(
    spec: Path, overrides: tuple[str, ...], key: str, data: Path, base: Path, candidate: Path, out: Path
) -> None:
    """Attack the candidate and, as positive control, the undefended model.

    Needs the folders of prepare-data, fetch-model and defend. Attacked weights are hazardous: they are deleted
    unless the spec says attacks.keep_checkpoints.

    \b
    Example:
      tokenbuncher attack --spec specs/organism.yaml --key grpo-1000 --data work/data \\
          --base work/base --candidate work/candidate --out work/attack-grpo-1000
    """
    from tokenbuncher.attacks import attack

    attack(load_spec(spec, overrides), key, data, base, candidate, out)
    _wrote(out)


@main.command()
@_spec_options
@_data
@_base
@_candidate
@_out
def evaluate_safety(spec: Path, overrides: tuple[str, ...], data: Path, base: Path, candidate: Path, out: Path) -> None:
    """Measure harm, refusal, gibberish and entropy before any attack.

    Needs the folders of prepare-data, fetch-model and defend.

    \b
    Example:
      tokenbuncher evaluate-safety --spec specs/organism.yaml --data work/data \\
          --base work/base --candidate work/candidate --out work/safety
    """
    from tokenbuncher.evaluation import evaluate_safety

    evaluate_safety(load_spec(spec, overrides), data, base, candidate, out)
    _wrote(out)


@main.command()
@_spec_options
@_data
@_base
@_candidate
@_out
def evaluate_utility(
    spec: Path, overrides: tuple[str, ...], data: Path, base: Path, candidate: Path, out: Path
) -> None:
    """Measure what the defence costs: accuracy and benign fine-tuning.

    Needs the folders of prepare-data, fetch-model and defend.

    \b
    Example:
      tokenbuncher evaluate-utility --spec specs/organism.yaml --data work/data \\
          --base work/base --candidate work/candidate --out work/utility
    """
    from tokenbuncher.evaluation import evaluate_utility

    evaluate_utility(load_spec(spec, overrides), data, base, candidate, out)
    _wrote(out)


@main.command()
@_spec_options
@_candidate
@click.option("--attack", "attacks", multiple=True, type=_FOLDER, help="Folder of an attack, to be logged; repeatable.")
@_out
def register(spec: Path, overrides: tuple[str, ...], candidate: Path, attacks: tuple[Path, ...], out: Path) -> None:
    """Register the candidate as a pending model version in MLflow.

    Needs the folder of defend, and the MLflow server of the spec; by default a database under the output root.

    \b
    Example:
      tokenbuncher register --spec specs/organism.yaml --candidate work/candidate --out work/registration
    """
    from tokenbuncher.registry import register

    register(load_spec(spec, overrides), candidate, out, attacks)
    _wrote(out)


@main.command()
@_release_options
@click.option(
    "--key", type=_FILE, help="Private key that signs an attestation; else the one $TOKENBUNCHER_SIGNING_KEY names."
)
@click.option("--out", type=_NEW, help="Folder to be written; without it nothing is.")
@click.pass_context
def gate(ctx: click.Context, key: Path | None, out: Path | None, **release: Any) -> None:
    """Judge the release by its policy, or by another. Works offline.

    Needs the evidence of every attack and both evaluations, the spec and the registration: the folder of a run has
    them all. Writes verdict.json, report.html, summary.md, card.md (for the model card), junit.xml and, with a key,
    attestation.json.
    Exit status: 0 PASS, 1 BLOCK, 2 INCONCLUSIVE.

    \b
    Examples:
      tokenbuncher gate --evidence runs/organism --policy specs/policies/strict.yaml
      tokenbuncher gate --spec specs/organism.yaml --evidence work/attack-grpo-1000 --evidence work/safety \\
          --evidence work/utility --registration work/registration --out work/verdict
    """
    from tokenbuncher.attestation import signing_key
    from tokenbuncher.gate import gate

    verdict = gate(*RecordedRelease.found(**release), out, signing_key(key))
    if out:
        _wrote(out)
    ctx.exit(EXIT_CODES[verdict.outcome])


@main.command()
@_release_options
@click.option("--what-if", type=_FILE, help="Another policy: tells what it would change.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain(what_if: Path | None, as_json: bool, **release: Any) -> None:
    """Tell why a release does not pass: by how much, whether that is chance, which prompts decide.

    Needs what gate needs. Prompts are named by the first digits of the sha256 of their texts.

    \b
    Examples:
      tokenbuncher explain --evidence runs/organism
      tokenbuncher explain --evidence runs/organism --what-if specs/policies/strict.yaml
    """
    from tokenbuncher.gate import explain_release

    found = RecordedRelease.found(**release)
    other = RecordedRelease.found(**{**release, "policy": what_if}).spec if what_if else None
    click.echo(explain_release(*found, other, as_json))


@main.command()
@_release_options
@click.option("--verdict", type=_EXISTING, help="Folder written by gate; else below the evidence.")
@click.pass_context
def promote(ctx: click.Context, verdict: Path | None, **release: Any) -> None:
    """Move the alias to the registered version, on a PASS that holds.

    Needs what gate needed, and its verdict: the release is judged again and the registered files are hashed.
    An attestation beside the verdict is kept with the version, for servers that ask for one.
    Exit status: 0 promoted, 1 BLOCK, 2 INCONCLUSIVE; refused, the alias stays where it was.

    \b
    Examples:
      tokenbuncher promote --evidence runs/organism
      tokenbuncher promote --spec specs/organism.yaml --evidence work/attack-grpo-1000 --evidence work/safety \\
          --evidence work/utility --registration work/registration --verdict work/verdict
    """
    from tokenbuncher.registry import Refused, promote

    found = RecordedRelease.found(**release)
    try:
        promote(*found, verdict or found.evidence[0])
    except Refused as refused:
        _fail(ctx, f"refused: {refused}", EXIT_CODES[refused.outcome])


@main.command()
@_spec_options
@click.pass_context
def rollback(ctx: click.Context, spec: Path, overrides: tuple[str, ...]) -> None:
    """Move the alias back to the version that had it before, if its verdict still holds.

    Needs the registry. Exit status: 0 moved back, 2 refused; refused, the alias stays where it was.

    \b
    Example:
      tokenbuncher rollback --spec specs/organism.yaml
    """
    from tokenbuncher.registry import Refused, rollback

    try:
        rollback(load_spec(spec, overrides))
    except Refused as refused:
        _fail(ctx, f"refused: {refused}", EXIT_CODES[refused.outcome])


@main.command()
@_spec_options
def status(spec: Path, overrides: tuple[str, ...]) -> None:
    """Show the registered versions, their verdicts and aliases.

    Needs the registry.

    \b
    Example:
      tokenbuncher status --spec specs/organism.yaml
    """
    from tokenbuncher.registry import status

    click.echo(status(load_spec(spec, overrides)))


@main.command()
@click.option("--out", required=True, type=_NEW, help="The private key to be written; the public one gets .pub.")
def keygen(out: Path) -> None:
    """Make a key pair that signs attestations (ECDSA P-256).

    Needs nothing; with $TOKENBUNCHER_KEY_PASSPHRASE set, the private key is encrypted.

    \b
    Example:
      tokenbuncher keygen --out keys/release.pem
    """
    from tokenbuncher.attestation import generate_key

    public = generate_key(out)
    _wrote(out)
    _wrote(public)


@main.command()
@_release_options
@click.option("--verdict", type=_EXISTING, help="Folder written by gate; else below the evidence.")
@click.option("--key", type=_FILE, help="Private key; else the one $TOKENBUNCHER_SIGNING_KEY names.")
@click.option("--out", required=True, type=_NEW, help="The attestation to be written, a JSON file.")
def sign(verdict: Path | None, key: Path | None, out: Path, **release: Any) -> None:
    """Sign the verdict of a recorded release, after judging it again.

    Needs what gate needed, its verdict and a private key.

    \b
    Example:
      tokenbuncher sign --evidence runs/organism --key keys/release.pem --out attestation.json
    """
    from tokenbuncher.gate import sign_release

    found = RecordedRelease.found(**release)
    sign_release(*found, verdict or found.evidence[0], key, out)
    _wrote(out)


@main.command()
@click.argument("attestation")
@click.option("--key", "keys", required=True, multiple=True, type=_FILE, help="Public key that is trusted; repeatable.")
@click.option("--model", type=_FOLDER, help="Folder of the model, whose files are hashed.")
@click.option("--policy", type=_FILE, help="Policy that it must have been judged by.")
@click.option("--tracking-uri", help="Of the MLflow registry, for models:/.")
@click.option("--out", type=_NEW, help="Folder for the files of models:/; made, or replaced, only if all holds.")
@click.pass_context
def verify(
    ctx: click.Context,
    attestation: str,
    keys: tuple[Path, ...],
    model: Path | None,
    policy: Path | None,
    tracking_uri: str | None,
    out: Path | None,
) -> None:
    """Verify an attestation, and the files of a model against it. Offline, but for models:/.

    Needs the public keys that are trusted.
    ATTESTATION is its file; or models:/NAME@alias or models:/NAME/VERSION: the registry has files and attestation.
    Exit status: 0 all of it holds, 1 something does not match, 2 it is no attestation or no trusted key signed it.

    \b
    Examples:
      tokenbuncher verify work/verdict/attestation.json --key keys/release.pub --model work/candidate
      tokenbuncher verify models:/organism@champion --key keys/release.pub --tracking-uri http://mlflow:5000 \\
          --out model
    """
    from tokenbuncher.attestation import load_public_key, verify, verify_files
    from tokenbuncher.documents import read_text
    from tokenbuncher.files import folder_files
    from tokenbuncher.policy import load_policy

    trusted = [load_public_key(key) for key in keys]
    for path, key in zip(keys, trusted, strict=True):
        click.echo(f"trusted: {path}, key identifier {key.keyid}")
    wanted = load_policy(policy).digest() if policy else None
    if attestation.startswith("models:/"):
        from tokenbuncher.registry import verify_version

        if model:
            raise UserError(f"give {attestation} or --model, not both: the registry has the files")
        statement, problems = verify_version(attestation, trusted, tracking_uri, wanted, out)
    else:
        if out:
            raise UserError("--out is for models:/; the files of another model are where --model says")
        statement, problems = verify(read_text("attestation", attestation), trusted, policy=wanted)
        problems += verify_files(statement, folder_files(model)) if model else []
    for problem in problems:
        click.echo(f"does not hold: {problem}", err=True)
    if problems:
        ctx.exit(1)
    compared = model or attestation.startswith("models:/")
    what = f"{len(statement.subject)} files of it are these" if compared else "no files were compared"
    click.echo(
        f"holds: {statement.predicate.model} version {statement.predicate.version} passed, {what}; "
        f"valid until {statement.predicate.expires:%Y-%m-%d %H:%M %Z}"
    )


@main.command()
@click.option("--guard", "settings", required=True, type=_FILE, help="The guard's settings, a YAML file.")
@click.option("--tracking-uri", required=True, help="Of the MLflow server.")
@click.option("--listen", metavar="ADDRESS:PORT", help="Take the server's webhooks here.")
@click.option(
    "--every", type=click.FloatRange(min=1), metavar="SECONDS", help="Look at all protected aliases so often."
)
@click.option("--revert", is_flag=True, help="Move an alias back that is where it must not be; else only tell.")
def watch(settings: Path, tracking_uri: str, listen: str | None, every: float | None, revert: bool) -> None:
    """Watch the protected aliases of an MLflow server that cannot have the guard.

    Needs --listen, --every or both. Prints a JSON line for each alias that is on a version that must not have it. The
    secret of the webhooks is read from $TOKENBUNCHER_WEBHOOK_SECRET.

    \b
    Example:
      tokenbuncher watch --guard guard.yaml --tracking-uri http://mlflow:5000 --listen 0.0.0.0:8080 --every 300
    """
    from tokenbuncher.guard import load_guard
    from tokenbuncher.guard.watch import Watcher, attestation_check, stopped_by_signals, watch
    from tokenbuncher.registry import connected

    with connected(tracking_uri) as client, stopped_by_signals() as stop:
        watcher = Watcher(client, load_guard(settings).aliases, attestation_check(client, settings), revert)
        watch(watcher, listen, every, os.environ.get("TOKENBUNCHER_WEBHOOK_SECRET", ""), stop)


@main.command()
@_spec_options
@_own_policy
@click.option(
    "--device",
    default="cpu",
    show_default=True,
    metavar="DEVICE",
    help="What each process has: cpu (a core), h100, a100, or FLOPS,BANDWIDTH[,MEMORY] of another GPU.",
)
@click.option("--parameters", type=_SIZE, help="Of the model, such as 7e9; else counted from its config.json.")
@click.option("--layers", type=_COUNT, help="Of a model that is not on this machine.")
@click.option("--hidden", type=_COUNT, help="Of such a model: width of its hidden states.")
@click.option("--vocabulary", type=_COUNT, help="Of such a model: tokens in its vocabulary.")
@click.option("--judge-parameters", type=_SIZE, default=7e9, show_default=True, help="Of each judge that is a model.")
@click.option("--reward-parameters", type=_SIZE, default=7e9, show_default=True, help="Of a reward that is a model.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(
    spec: Path,
    overrides: tuple[str, ...],
    policy: Path | None,
    device: str,
    parameters: float | None,
    layers: int | None,
    hidden: int | None,
    vocabulary: int | None,
    judge_parameters: float,
    reward_parameters: float,
    as_json: bool,
) -> None:
    """Estimate steps, tokens, time and memory of each stage before it runs.

    Needs the spec alone, and of a model that is not on this machine its size. Nothing is fetched.

    \b
    Examples:
      tokenbuncher plan --spec specs/organism.yaml
      tokenbuncher plan --spec specs/qwen2.5-7b.yaml --device h100 \\
          --parameters 7.6e9 --layers 28 --hidden 3584 --vocabulary 152064 --reward-parameters 4e8
    """
    from tokenbuncher.plan import Judges, parse_device, plan, shape_of

    release = load_spec(spec, overrides, policy)
    shape = shape_of(release, parameters, layers, hidden, vocabulary)
    estimate = plan(release, shape, parse_device(device), Judges(judge_parameters, reward_parameters))
    click.echo(estimate.json() if as_json else estimate.table())


@main.command()
@_spec_options
@_own_policy
@click.pass_context
def run_local(ctx: click.Context, spec: Path, overrides: tuple[str, ...], policy: Path | None) -> None:
    """Run the whole pipeline on this machine.

    Needs the extras registry, pipelines and trainer. Leaves everything in the folder of the spec's name under
    its output root, and ends with the verdict. Exit status: 0 PASS, 1 BLOCK, 2 INCONCLUSIVE.

    \b
    Example:
      tokenbuncher run-local --spec specs/organism.yaml --set name=try --set defence.recipe=none
    """
    from tokenbuncher.local import run_local

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # under nohup it stays ignored
            signal.signal(number, signal.default_int_handler)
    ctx.exit(EXIT_CODES[run_local(load_spec(spec, overrides, policy)).outcome])


@main.command()
@click.option("--output", type=_NEW, help="The release pipeline alone, to this .yaml file.")
@_placement
def compile(output: Path | None, placement: Path | None) -> None:
    """Compile the pipelines for Kubeflow, and lint them.

    Needs the extra pipelines. Writes build/release.yaml, build/gate-only.yaml and build/red-team.yaml. Tasks run in
    the images of the placement; else in those that $TOKENBUNCHER_TRAINER_IMAGE and $TOKENBUNCHER_GATE_IMAGE name; else
    in tokenbuncher/trainer and tokenbuncher/gate with the tag of this version.

    \b
    Examples:
      tokenbuncher compile
      tokenbuncher compile --output build/release.yaml --placement placement.yaml
    """
    from pipelines.compile import PIPELINES, compile_pipeline
    from pipelines.placement import load_placement

    placed = load_placement(placement)
    wanted = {"release": output} if output else {name: Path("build", f"{name}.yaml") for name in PIPELINES}
    for name, path in wanted.items():
        compile_pipeline(name, path, placed)
        _wrote(path)


@main.command()
@_spec_options
@_own_policy
@click.option("--host", required=True, help="URL of Kubeflow Pipelines.")
@click.option("--token-file", type=_FILE, help="File with the token that the server asks for.")
@click.option("--namespace", help="Whose run it is, on a server of several users.")
@click.option("--experiment", default="tokenbuncher", show_default=True, help="The experiment it belongs to.")
@click.option("--name", help="Name of the run; the spec's unless given.")
@_placement
@click.option("--recurring", "cron", metavar="CRON", help="Run it again and again: six fields, seconds first.")
@click.option("--wait", is_flag=True, help="Show the tasks' progress and wait for the end.")
@click.pass_context
def submit(
    ctx: click.Context,
    spec: Path,
    overrides: tuple[str, ...],
    policy: Path | None,
    host: str,
    token_file: Path | None,
    namespace: str | None,
    experiment: str,
    name: str | None,
    placement: Path | None,
    cron: str | None,
    wait: bool,
) -> None:
    """Submit the release pipeline to Kubeflow Pipelines.

    Needs the extra pipelines, the server, and an MLflow server that its tasks reach. Spec, compiled pipeline and
    arguments are checked before the first request. Exit status: 0 submitted or, with --wait, succeeded; 1 the run
    failed or was cancelled; 2 refused.

    \b
    Examples:
      tokenbuncher submit --spec specs/organism.yaml --set tracking.uri=http://mlflow:5000 \\
          --host http://localhost:8080 --wait
      tokenbuncher submit --spec specs/organism.yaml --host https://kubeflow.example/pipeline \\
          --token-file token --namespace safety --placement placement.yaml --recurring '0 0 3 * * 1'
    """
    if cron and wait:
        raise UserError("--wait waits for a run's end, and a recurring one has none; give --wait or --recurring")
    from pipelines.placement import load_placement
    from pipelines.submit import SUCCEEDED, Server, read_token
    from pipelines.submit import submit as submit_pipeline
    from pipelines.submit import wait as wait_for

    release = load_spec(spec, overrides, policy)
    server = Server(host, read_token(token_file), namespace)
    submitted = submit_pipeline(release, load_placement(placement), server, experiment, name or release.name, cron)
    click.echo(submitted.url)
    if not wait:
        return
    try:
        ctx.exit(0 if wait_for(server, submitted.id) == SUCCEEDED else 1)
    except KeyboardInterrupt:
        _fail(ctx, f"interrupted; the run goes on: {submitted.url}", INTERRUPTED)


@main.command()
@_out
def build_organism(out: Path) -> None:
    """Train the built-in model anew: the one that ships with the package, for organism://.

    Needs the trainer extra and about three minutes on one core.

    \b
    Example:
      tokenbuncher build-organism --out work/organism
    """
    from tokenbuncher.organism.build import build_organism

    build_organism(out)
    _wrote(out)


@main.command()
def schema() -> None:
    """Print the JSON schema of the release spec.

    \b
    Example:
      tokenbuncher schema > release-spec.schema.json
    """
    click.echo(json.dumps(ReleaseSpec.model_json_schema(), indent=2))


def _wrote(path: Path) -> None:
    click.echo(f"wrote {path}")
