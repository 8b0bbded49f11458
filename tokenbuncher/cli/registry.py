"""Commands on registered versions, and on the keys and attestations that vouch for them."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tokenbuncher.cli.doors import EXIT_CODES, NEW_FOLDER, Door, fail, wrote
from tokenbuncher.cli.options import FILE, FOLDER, NEW, spec_options
from tokenbuncher.core.errors import UserError
from tokenbuncher.settings import load_spec

if TYPE_CHECKING:
    from securesystemslib.signer import SSlibKey


keys_option = click.option(
    "--key",
    "keys",
    multiple=True,
    type=FILE,
    help="Trusted public key; repeatable. By default that of $TOKENBUNCHER_SIGNING_KEY.",
)


def _trusted(keys: tuple[Path, ...]) -> list[SSlibKey]:
    from tokenbuncher.attestation import load_public_key, signing_key

    own = None if keys else signing_key()
    return [own.public_key] if own else [load_public_key(key) for key in keys]


@click.command(cls=Door)
@spec_options
@keys_option
@click.pass_context
def rollback(ctx: click.Context, spec: Path, overrides: tuple[str, ...], keys: tuple[Path, ...]) -> None:
    """Move the alias back to the version that had it before, if its attestation still holds.

    Needs the registry and a trusted key. To move the alias back to a version without a signature, promote its recorded
    release again. Exit status: 0 moved back; 2 refused, and the alias stays where it was.

    \b
    Example:
      tokenbuncher rollback --spec specs/organism.yaml --key keys/release.pub
    """
    from tokenbuncher.registry import Refused, rollback

    try:
        rollback(load_spec(spec, overrides), _trusted(keys))
    except Refused as refused:
        fail(ctx, f"refused: {refused}", EXIT_CODES[refused.outcome])


@click.command(cls=Door)
@spec_options
@keys_option
def status(spec: Path, overrides: tuple[str, ...], keys: tuple[Path, ...]) -> None:
    """Show the registered versions, their verdicts, aliases and signatures.

    Needs the registry. The column signed says "yes" if a trusted key signed the attestation, "untrusted" if none did,
    "unverified" if no key is given, "another's" if it is about another version, and "garbage" if it is no attestation.

    \b
    Example:
      tokenbuncher status --spec specs/organism.yaml --key keys/release.pub
    """
    from tokenbuncher.registry import status

    click.echo(status(load_spec(spec, overrides), _trusted(keys)))


@click.command(cls=Door)
@click.argument("attestation")
@click.option("--key", "keys", required=True, multiple=True, type=FILE, help="Trusted public key; repeatable.")
@click.option("--model", type=FOLDER, help="Folder of the model. Its files are compared with the attestation.")
@click.option("--policy", type=FILE, help="The policy that the model must have been judged by.")
@click.option("--guard", type=FILE, help="Guard settings. Keys and attestations that they revoke are not accepted.")
@click.option("--tracking-uri", help="URI of the MLflow registry, for models:/.")
@click.option(
    "--out", type=NEW_FOLDER, help="Folder for the files of models:/. It is written only if everything holds."
)
@click.pass_context
def verify(
    ctx: click.Context,
    attestation: str,
    keys: tuple[Path, ...],
    model: Path | None,
    policy: Path | None,
    guard: Path | None,
    tracking_uri: str | None,
    out: Path | None,
) -> None:
    """Verify an attestation, and the files of a model against it. Works offline, except for models:/.

    Needs the trusted public keys.
    ATTESTATION is a file; or models:/NAME@alias or models:/NAME/VERSION: the registry then has files and attestation,
    and perhaps a later verdict that refused the version.
    Exit status: 0 everything holds, 1 something does not match, 2 it is no attestation or no trusted key signed it.

    \b
    Examples:
      tokenbuncher verify work/verdict/attestation.json --key keys/release.pub --model work/candidate
      tokenbuncher verify models:/organism@champion --key keys/release.pub --tracking-uri http://mlflow:5000 \\
          --out model
    """
    from tokenbuncher.attestation import (
        attestation_digest,
        load_public_key,
        read_unverified,
        refused_only,
        verify,
        verify_files,
    )
    from tokenbuncher.core.documents import read_text
    from tokenbuncher.core.files import folder_files
    from tokenbuncher.guard import load_guard
    from tokenbuncher.settings.policy import load_policy

    settings = load_guard(guard) if guard else None
    withdrawn = settings.withdrawn if settings else refused_only
    named = [load_public_key(key) for key in keys]
    for path, key in zip(keys, named, strict=True):
        click.echo(f"trusted: {path}, key identifier {key.keyid}")
    trusted = [key for key in named if settings is None or key.keyid not in settings.revoked]
    wanted = load_policy(policy).digest() if policy else None
    if attestation.startswith("models:/"):
        from tokenbuncher.registry import verify_version

        if model:
            raise UserError(f"give {attestation} or --model, not both: the registry has the files")
        statement, problems = verify_version(
            attestation, trusted, tracking_uri, policy=wanted, out=out, withdrawn=withdrawn
        )
    else:
        if out:
            raise UserError("--out is for models:/; the files of another model are where --model says")
        text = read_text("attestation", attestation)
        click.echo(f"attestation: sha256 {attestation_digest(text)}")
        ended = withdrawn(read_unverified(text).predicate.model, None)
        statement, problems = verify(text, trusted, policy=wanted, withdrawn=ended)
        problems += verify_files(statement, folder_files(model)) if model else []
    for problem in problems:
        click.echo(f"does not hold: {problem}", err=True)
    if problems:
        ctx.exit(1)
    predicate = statement.predicate
    told = f" ({predicate.headline})" if predicate.headline not in ("", "PASS") else ""
    compared = model or attestation.startswith("models:/")
    what = f"{len(statement.subject)} files of it are these" if compared else "no files were compared"
    click.echo(
        f"holds: {predicate.model} version {predicate.version} passed{told}, {what}; "
        f"valid until {predicate.expires:%Y-%m-%d %H:%M %Z}"
    )


@click.command(cls=Door)
@click.option("--guard", "settings", required=True, type=FILE, help="The guard's settings, a YAML file.")
@click.option("--tracking-uri", required=True, help="URI of the MLflow server.")
@click.option("--listen", metavar="ADDRESS:PORT", help="Listen here for the server's webhooks.")
@click.option(
    "--every",
    type=click.FloatRange(min=1),
    metavar="SECONDS",
    help="Check everything that is protected at this interval.",
)
@click.option(
    "--revert", is_flag=True, help="Move an alias back if its version must not have it. Otherwise it is only reported."
)
def watch(settings: Path, tracking_uri: str, listen: str | None, every: float | None, revert: bool) -> None:
    """Watch the protected aliases and stages of an MLflow server without the guard.

    Needs --listen, --every or both; stages need --every. Prints a JSON line for each alias or stage that is on a
    version that must not have it. The secret of the webhooks is read from $TOKENBUNCHER_WEBHOOK_SECRET.

    \b
    Example:
      tokenbuncher watch --guard guard.yaml --tracking-uri http://mlflow:5000 --listen 0.0.0.0:8080 --every 300
    """
    from tokenbuncher.guard import load_guard
    from tokenbuncher.guard.watch import Watcher, attestation_check, stopped_by_signals, watch
    from tokenbuncher.storage.tracking import connected

    if load_guard(settings).stages and every is None:
        raise UserError(f"{settings} protects stages, and MLflow sends no webhooks for them; add --every")
    with connected(tracking_uri) as client, stopped_by_signals() as stop:
        watcher = Watcher(client, partial(load_guard, settings), attestation_check(client, settings), revert=revert)
        watch(watcher, listen, every, secret=os.environ.get("TOKENBUNCHER_WEBHOOK_SECRET", ""), stop=stop)


@click.command(cls=Door)
@click.option(
    "--out", required=True, type=NEW, help="The private key file to write; the public key is written beside it as .pub."
)
def keygen(out: Path) -> None:
    """Make a key pair that signs attestations (ECDSA P-256).

    Needs nothing; with $TOKENBUNCHER_KEY_PASSPHRASE set, the private key is encrypted.

    \b
    Example:
      tokenbuncher keygen --out keys/release.pem
    """
    from tokenbuncher.attestation import generate_key

    public = generate_key(out)
    wrote(out)
    wrote(public)
