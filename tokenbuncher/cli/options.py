"""Options that several commands have, under the same names everywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click

from tokenbuncher.cli.doors import NEW_FOLDER, PathOption
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.wrong_fields import guessed
from tokenbuncher.settings import ReleaseSpec, load_spec


class Existing(PathOption):
    """A file or folder that exists. If it does not, the error suggests what was meant."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            path = Path(value)
            if path.exists() or not path.parent.is_dir():
                raise
            beside = [other.name for other in path.parent.iterdir()]
            self.fail(error.message.rstrip(".") + guessed(path.name, beside), param, ctx)


FILE = Existing(exists=True, dir_okay=False)
FOLDER = Existing(exists=True, file_okay=False)
EXISTING = Existing(exists=True)
NEW = PathOption()
COUNT = click.IntRange(min=1)
SIZE = click.FloatRange(min=0, min_open=True)

own_policy = click.option("--policy", type=FILE, help="A policy file, instead of the policy in the spec.")
data = click.option("--data", required=True, type=FOLDER, help="Folder written by prepare-data.")
base = click.option("--base", required=True, type=FOLDER, help="Model folder written by fetch-model.")
candidate = click.option("--candidate", required=True, type=FOLDER, help="Model folder written by defend.")
out = click.option(
    "--out", required=True, type=NEW_FOLDER, help="Folder to write. An earlier output there is replaced."
)
steps = click.option(
    "--steps", type=EXISTING, help="Step log of the defence, or the folder that defend wrote as --log; for reading."
)
dry_run = click.option("--dry-run", is_flag=True, help="Check what can be checked, and say what would be done.")
placement = click.option(
    "--placement", type=FILE, help="YAML file with images, resources, secrets and volumes of the tasks."
)


def spec_options(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="FIELD.PATH=VALUE",
        help="Change a field of the spec; repeatable.",
    )(command)
    return click.option("--spec", required=True, type=FILE, help="The release spec, a YAML file.")(command)


def release_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that name a recorded release: the folder of a run, or its parts one by one."""
    for option in (
        click.option(
            "--registration", type=EXISTING, help="Folder written by register; by default below the evidence."
        ),
        own_policy,
        click.option(
            "--set", "overrides", multiple=True, metavar="FIELD.PATH=VALUE", help="Change a field of the spec."
        ),
        click.option("--spec", type=FILE, help="The release spec; by default spec.yaml in the evidence folder."),
        click.option(
            "--evidence",
            required=True,
            multiple=True,
            type=EXISTING,
            help="Folder of a run; or folder of each attack, of evaluate-safety and of evaluate-utility.",
        ),
    ):
        command = option(command)
    return command


class RecordedRelease(NamedTuple):
    """Where a recorded release is."""

    spec: ReleaseSpec
    evidence: tuple[Path, ...]
    registration: Path

    @classmethod
    def found(
        cls,
        evidence: tuple[Path, ...],
        spec: Path | None,
        overrides: tuple[str, ...],
        *,
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
