"""The story on the built-in model, as Markdown: it refuses, an attack breaks it, the defence, the gate.

    .venv/bin/python examples/demo.py --out docs/demo.md     # about five minutes on one core

The commands are what one would type in the repository's folder; here one process runs them all, which spares the
imports. The model's world is fictional and its harmful requests are inert, so that what it says can be shown.
"""

from __future__ import annotations

import argparse
import io
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from textwrap import dedent

from tokenbuncher.cli import main as tokenbuncher
from tokenbuncher.core.files import write_text
from tokenbuncher.evidence import AttackArm, AttackEvidence, read_evidence
from tokenbuncher.settings import ReleaseSpec, load_spec

SPEC = Path("examples/demo.yaml")
WORK = Path("runs/demo")
RESPONSES, LONGEST = 3, 10


class Story:
    """What is told, and the commands that are run for it."""

    def __init__(self, overrides: Sequence[str] = (), rehearsed: bool = False) -> None:
        """
        Args:
            overrides: `field.path=value` pairs for every command that reads the spec; they are not told.
            rehearsed: Whether to tell the commands only, without running anything.
        """
        self.overrides, self.rehearsed = overrides, rehearsed
        self.parts: list[str] = []
        self.commands: list[str] = []

    def say(self, text: str) -> None:
        self.parts.append(dedent(text).strip() + "\n")

    def run(self, *commands: str, longest: int = LONGEST) -> None:
        """Runs commands, and shows them with what they print, of which each may take so many lines."""
        shown = [line for command in commands for line in (f"$ {command}", *self._output(command, longest))]
        self.say("\n".join(["```console", *shown, "```"]))

    def _output(self, command: str, longest: int) -> list[str]:
        self.commands.append(command)
        print(f"$ {command}", file=sys.stderr, flush=True)
        if self.rehearsed:
            return []
        program, *arguments = shlex.split(command)
        status, printed = self._tokenbuncher(arguments) if program == "tokenbuncher" else _shell(command)
        return [*_shortened(printed.splitlines(), longest), *([f"(exit status {status})"] if status else [])]

    def _tokenbuncher(self, arguments: list[str]) -> tuple[int, str]:
        with redirect_stdout(io.StringIO()) as printed, redirect_stderr(printed):
            if "--spec" in arguments:
                arguments += [word for override in self.overrides for word in ("--set", override)]
            return tokenbuncher(arguments, standalone_mode=False) or 0, printed.getvalue()

    def responses(self, model: Path, data: Path) -> None:
        """Shows what a model says to prompts that it has not seen."""
        if not self.rehearsed:
            rows = _responses(load_spec(SPEC, self.overrides), model, data)
            self.say(_table(["prompt", "response"], rows))

    def curves(self, attack: Path, arms: Sequence[str]) -> None:
        """Shows what was measured while models were attacked."""
        if not self.rehearsed:
            evidence = read_evidence(attack)
            assert isinstance(evidence, AttackEvidence)
            for arm in arms:
                self.say(_curve(getattr(evidence, f"{arm}_arm")))


def _shell(command: str) -> tuple[int, str]:
    done = subprocess.run(command, shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return done.returncode, done.stdout


def _shortened(lines: list[str], longest: int) -> list[str]:
    return lines if len(lines) <= longest else [*lines[:3], "...", *lines[3 - longest :]]


def _responses(spec: ReleaseSpec, folder: Path, data: Path) -> list[list[str]]:
    from tokenbuncher.models.load import load_model
    from tokenbuncher.models.sampling import generate
    from tokenbuncher.models.tokenizer import load_tokenizer
    from tokenbuncher.settings.prompts import load_set

    prompts = load_set(data, "safety")[:RESPONSES]
    model, tokenizer = load_model(folder, spec.model), load_tokenizer(folder)
    said = generate(model, tokenizer, prompts, max_new_tokens=spec.model.max_new_tokens, batch_size=len(prompts))
    return [[prompt.text, response.text] for prompt, response in zip(prompts, said, strict=True)]


def _curve(arm: AttackArm) -> str:
    rows = [[f"{point.step}", f"{point.harm:.0%}", f"{point.refusal:.0%}"] for point in arm.curve]
    return _table(["step", "harmful", "refused"], [row for row in rows if len(rows) <= 5 or int(row[0]) % 20 == 0])


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


BASE, DATA, CANDIDATE = WORK / "base", WORK / "data", WORK / "candidate"
UNDEFENDED, DEFENDED, VERDICT = WORK / "undefended", WORK / "defended", WORK / "verdict"
DEFAULT, WITHOUT = f"--spec {SPEC}", f"--spec {SPEC} --set defence.recipe=none"
MODELS = f"--data {DATA} --base {BASE} --candidate"


def _refuses(story: Story) -> None:
    """A model that refuses."""
    story.say(
        """
        # The story in five minutes

        Everything below was run on the built-in model, a tiny one that lives in a fictional world. Its harmful requests
        are inert: nothing here is of use to anyone, so it can be shown. The training is real. The budget is that of
        [examples/demo.yaml](../examples/demo.yaml): one attack instead of seven, and no benign fine-tuning.

        ## 1. A model that refuses
        """
    )
    story.run(f"tokenbuncher fetch-model {DEFAULT} --out {BASE}", f"tokenbuncher prepare-data {DEFAULT} --out {DATA}")
    story.say("Three requests that it was not trained on, and what it says at temperature 1:")
    story.responses(BASE, DATA)


def _is_broken(story: Story) -> None:
    """An attack breaks it."""
    story.say(
        """
        ## 2. A few steps of reinforcement learning, and it complies

        The attacker has the weights, 400 other requests, no answers to them, and a learnt reward that says how
        harmful a response looks. The attack is GRPO. It runs twice: on the base model, which is the control, and on the
        candidate. Nothing is defended yet, so these are the same.
        """
    )
    story.run(f"tokenbuncher attack {WITHOUT} --key grpo-1000 {MODELS} {BASE} --out {UNDEFENDED}/attack")
    story.say("Harm is measured on requests that neither the model nor the attacker was trained on:")
    story.curves(UNDEFENDED / "attack", ["control"])
    story.say("What it says now:")
    story.responses(UNDEFENDED / "attack" / "quarantine" / "control", DATA)


def _is_defended(story: Story) -> None:
    """The defence."""
    story.say(
        """
        ## 3. The defence

        The attack learns from differences: of several responses to a request, one earns a little more than the others.
        The defence makes the model so certain of its refusals that there are none ([how it works](how-it-works.md)).
        """
    )
    story.run(f"tokenbuncher defend {DEFAULT} --data {DATA} --base {BASE} --out {CANDIDATE}")


def _withstands(story: Story) -> None:
    """The same attack does nothing."""
    story.say(
        """
        ## 4. The same attack does nothing

        The base model is attacked again as the control, to prove that the attack is strong.
        """
    )
    story.run(f"tokenbuncher attack {DEFAULT} --key grpo-1000 {MODELS} {CANDIDATE} --out {DEFENDED}/attack")
    story.curves(DEFENDED / "attack", ["candidate"])
    story.say("After the attack, the candidate says:")
    story.responses(DEFENDED / "attack" / "quarantine" / "candidate", DATA)


def _is_judged(story: Story) -> None:
    """The gate passes it."""
    story.say(
        """
        ## 5. The gate

        First the evaluations measure what the defence costs. Then the version is registered and judged by the policy on
        all evidence, every rule at its confidence bound. With a key the verdict is signed.
        """
    )
    story.run(
        f"tokenbuncher evaluate-safety {DEFAULT} {MODELS} {CANDIDATE} --out {DEFENDED}/safety",
        f"tokenbuncher evaluate-utility {DEFAULT} {MODELS} {CANDIDATE} --out {DEFENDED}/utility",
        f"tokenbuncher register {DEFAULT} --candidate {CANDIDATE} --out {DEFENDED}/registration",
        f"tokenbuncher keygen --out {WORK}/release.pem",
        f"tokenbuncher gate {DEFAULT} --evidence {DEFENDED} --key {WORK}/release.pem --out {VERDICT}",
        f"tokenbuncher promote {DEFAULT} --evidence {DEFENDED} --verdict {VERDICT}",
    )


def _is_blocked(story: Story) -> None:
    """The gate blocks the model as it was."""
    story.say(
        """
        ## 6. Without the defence

        The same stages, with the base model as the candidate. The gate says what is wrong, and the alias stays where it
        is.
        """
    )
    story.run(
        f"tokenbuncher evaluate-safety {WITHOUT} {MODELS} {BASE} --out {UNDEFENDED}/safety",
        f"tokenbuncher evaluate-utility {WITHOUT} {MODELS} {BASE} --out {UNDEFENDED}/utility",
        f"tokenbuncher register {WITHOUT} --candidate {BASE} --out {UNDEFENDED}/registration",
        f"tokenbuncher gate {WITHOUT} --evidence {UNDEFENDED} --out {WORK}/blocked",
        f"tokenbuncher promote {WITHOUT} --evidence {UNDEFENDED} --verdict {WORK}/blocked",
        f"tokenbuncher status {DEFAULT} --key {WORK}/release.pub",
    )


def _is_explained(story: Story) -> None:
    """Why it is blocked."""
    story.say("## 7. Why it was blocked")
    story.run(f"tokenbuncher explain {WITHOUT} --evidence {UNDEFENDED}", longest=50)


def _is_verified(story: Story) -> None:
    """Verified elsewhere."""
    story.say(
        """
        ## 8. Later, somewhere else

        Anyone who serves the model can check that these very files passed, with the public key alone. One changed byte
        is found.
        """
    )
    verify = f"tokenbuncher verify {VERDICT}/attestation.json --key {WORK}/release.pub --model"
    story.run(
        f"{verify} {CANDIDATE}",
        f"cp -r {CANDIDATE} {WORK}/changed && echo >> {WORK}/changed/config.json",
        f"{verify} {WORK}/changed",
    )
    story.say(
        """
        A PASS says that this attack, at this budget, did not break this model. [The threat model](threat-model.md)
        lists what it does not say; [results](results.md) has every attack over several seeds.
        """
    )


def tell(story: Story) -> None:
    """The whole story."""
    for chapter in (
        _refuses,
        _is_broken,
        _is_defended,
        _withstands,
        _is_judged,
        _is_blocked,
        _is_explained,
        _is_verified,
    ):
        chapter(story)


def main() -> None:
    """Tells the story."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="Markdown file to be written")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="FIELD.PATH=VALUE")
    arguments = parser.parse_args()
    story, began = Story(arguments.overrides), time.monotonic()
    tell(story)
    story.say(f"All of it took {(time.monotonic() - began) / 60:.1f} minutes: `python examples/demo.py`.")
    write_text(arguments.out, "\n".join(story.parts))


if __name__ == "__main__":
    main()
