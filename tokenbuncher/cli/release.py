"""Commands on a recorded release: judge, explain, promote, compare and sign it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tokenbuncher.cli.doors import EXIT_CODES, NEW_FOLDER, Door, fail, wrote
from tokenbuncher.cli.options import EXISTING, FILE, FOLDER, NEW, RecordedRelease, dry_run, release_options, steps
from tokenbuncher.cli.telling import telling


@click.command(cls=Door)
@release_options
@steps
@click.option(
    "--key", type=FILE, help="Private key that signs an attestation; by default that of $TOKENBUNCHER_SIGNING_KEY."
)
@click.option("--out", type=NEW_FOLDER, help="Folder to write; without it nothing is written.")
@click.pass_context
@telling
def gate(ctx: click.Context, steps: Path | None, key: Path | None, *, out: Path | None, **release: Any) -> None:
    """Judge the release by its policy, or by another. Works offline.

    Needs the evidence of every attack and both evaluations, the spec and the registration: the folder of a run has
    them all. Prints a table of the rules that do not pass, the worst first, and writes verdict.json, report.html,
    report.md (for a pull request), report.json, card.md (for the model card), junit.xml and, with a key,
    attestation.json. The report shows the defence by its step log, if it lies below the evidence or --steps names it.
    Exit status: 0 PASS, 1 BLOCK, 2 INCONCLUSIVE.

    \b
    Examples:
      tokenbuncher gate --evidence runs/organism --policy specs/policies/research.yaml
      tokenbuncher gate --spec specs/organism.yaml --evidence work/attack-grpo-1000 --evidence work/safety \\
          --evidence work/utility --registration work/registration --out work/verdict
    """
    from tokenbuncher.attestation import signing_key
    from tokenbuncher.gate import gate

    verdict = gate(*RecordedRelease.found(**release), out=out, signer=signing_key(key), steps=steps)
    if out:
        wrote(out)
    ctx.exit(EXIT_CODES[verdict.outcome])


@click.command(cls=Door)
@release_options
@click.option("--what-if", type=FILE, help="Another policy: shows what would change by it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain(what_if: Path | None, as_json: bool, **release: Any) -> None:
    """Show why a release does not pass: by how much, by chance or not, by which prompts.

    Needs what gate needs. Prompts are named by the first digits of the sha256 of their texts.

    \b
    Examples:
      tokenbuncher explain --evidence runs/organism
      tokenbuncher explain --evidence runs/organism --what-if specs/policies/research.yaml
    """
    from tokenbuncher.gate import explain_release

    found = RecordedRelease.found(**release)
    other = RecordedRelease.found(**{**release, "policy": what_if}).spec if what_if else None
    click.echo(explain_release(*found, other=other, as_json=as_json))


@click.command(cls=Door)
@release_options
@click.option("--verdict", type=EXISTING, help="Folder written by gate; by default below the evidence.")
@dry_run
@click.pass_context
@telling
def promote(ctx: click.Context, verdict: Path | None, dry_run: bool, **release: Any) -> None:
    """Move the alias to the registered version, on a PASS that holds.

    Needs what gate needed, and its verdict. The release is judged again, and the registered files are hashed.
    An attestation beside the verdict is kept with the version, for servers with the guard.
    Exit status: 0 promoted; 1 BLOCK or 2 INCONCLUSIVE, and the alias stays where it was.

    \b
    Examples:
      tokenbuncher promote --evidence runs/organism --dry-run
      tokenbuncher promote --evidence runs/organism
      tokenbuncher promote --spec specs/organism.yaml --evidence work/attack-grpo-1000 --evidence work/safety \\
          --evidence work/utility --registration work/registration --verdict work/verdict
    """
    from tokenbuncher.registry import Refused, promote

    found = RecordedRelease.found(**release)
    try:
        promote(*found, verdict=verdict or found.evidence[0], dry_run=dry_run)
    except Refused as refused:
        fail(ctx, f"refused: {refused}", EXIT_CODES[refused.outcome])


@click.command(cls=Door)
@click.argument("first", type=FOLDER)
@click.argument("second", type=FOLDER)
@click.option("--out", required=True, type=NEW, help="The HTML file to write.")
def compare(first: Path, second: Path, out: Path) -> None:
    """Compare two releases: verdicts, rules, attacks, utility, and what differs in the specs.

    Needs the folders of two runs. Shows the verdicts recorded in them.

    \b
    Example:
      tokenbuncher compare runs/organism runs/candidate --out compare.html
    """
    from tokenbuncher.gate import compare_releases

    one, other = (RecordedRelease.found((run,), None, (), policy=None, registration=None) for run in (first, second))
    compare_releases(one, other, out)
    wrote(out)


@click.command(cls=Door)
@release_options
@click.option("--verdict", type=EXISTING, help="Folder written by gate; by default below the evidence.")
@click.option("--key", type=FILE, help="Private key; by default that of $TOKENBUNCHER_SIGNING_KEY.")
@click.option("--out", required=True, type=NEW, help="The attestation to write, a JSON file.")
def sign(verdict: Path | None, key: Path | None, out: Path, **release: Any) -> None:
    """Sign the verdict of a recorded release, after judging it again.

    Needs what gate needed, its verdict and a private key.

    \b
    Example:
      tokenbuncher sign --evidence runs/organism --key keys/release.pem --out attestation.json
    """
    from tokenbuncher.gate import sign_release

    found = RecordedRelease.found(**release)
    sign_release(*found, verdict=verdict or found.evidence[0], key=key, out=out)
    wrote(out)
