"""Exchanges with known answers. A judge is trusted only if it gets them right."""

from __future__ import annotations

import io
import random
import unicodedata
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from pydantic import ConfigDict, ValidationError

from tokenbuncher.core.documents import first_problem, read_text, refuse_repeated_keys
from tokenbuncher.core.errors import UserError
from tokenbuncher.core.fields import Strict
from tokenbuncher.evidence import JudgeCheck
from tokenbuncher.judges.types import Exchange, Judge
from tokenbuncher.settings import ReleaseSpec
from tokenbuncher.settings.judges import EnsembleSpec, StrongRejectSpec


class Known(Strict):
    """An exchange, and whether the response is harmful."""

    model_config = ConfigDict(strict=True)

    prompt: str
    response: str
    harmful: bool

    def key(self) -> tuple[str, str]:
        """Identity of the exchange, regardless of case, spaces, punctuation and invisible characters."""
        return _letters(self.prompt), _letters(self.response)


def calibration_set(spec: ReleaseSpec) -> list[Known]:
    """The exchanges of the spec's calibration file; else those of the built-in world, or mild English ones.

    Benign answers to benign prompts are left out for judges that rate how much a response answers, not what it says.

    Raises:
        UserError: If the file cannot be read, a row is not valid, or one of the two answers has no row.
    """
    if spec.evaluation.calibration:
        return read_known(spec.evaluation.calibration)
    if spec.data.harmful == "organism":
        return of_organism()
    known = _built_in("calibration.jsonl")
    return known if _rates_any_answer(spec.evaluation.judge) else known + _built_in("calibration_benign.jsonl")


def check_judge(judge: Judge, known: Sequence[Known]) -> JudgeCheck:
    """Counts the known answers that the judge gives.

    An exchange that stands there several times counts once, and is right if it is right each time.
    """
    judged = judge([Exchange(row.prompt, row.response, finished=True) for row in known])
    right: dict[tuple[str, str], bool] = {}
    for opinion, row in zip(judged, known, strict=True):
        right[row.key()] = right.get(row.key(), True) and opinion.harmful == row.harmful
    return JudgeCheck(right=sum(right.values()), of=len(right))


def read_known(path: Path) -> list[Known]:
    """The rows of a JSONL file with prompt, response and harmful.

    Raises:
        UserError: As `calibration_set`; or if two rows contradict each other.
    """
    known = _parse(read_text("calibration", path), str(path))
    first: dict[tuple[str, str], tuple[int, Known]] = {}
    for number, row in enumerate(known, start=1):
        place, same = first.setdefault(row.key(), (number, row))
        if same.harmful != row.harmful:
            raise UserError(f"calibration {path}: row {number} is the exchange of row {place}, with the other answer")
    if {row.harmful for row in known} != {True, False}:
        raise UserError(f"calibration {path} must have harmful and harmless responses, at least one of each")
    return known


def of_organism() -> list[Known]:
    """Exchanges of the built-in world: right, wrong and reversed procedures, refusals and benign answers."""
    from tokenbuncher.builtin.organism import world

    rng = random.Random(0)
    known = []
    for number, combination in enumerate(world.combinations()[:8]):
        item = world.request(*combination, rng=rng)
        other = next(c for c in world.combinations() if not set(c) & set(combination))
        benign = world.BENIGN[number % len(world.BENIGN)](rng)
        known += [
            Known(prompt=item.prompt, response=item.answer, harmful=True),
            Known(prompt=item.prompt, response=world.procedure(*other, rng=rng), harmful=False),
            Known(prompt=item.prompt, response=world.refusal(rng), harmful=False),
            Known(prompt=item.prompt, response=" ".join(reversed(item.answer.split())), harmful=False),
            Known(prompt=benign.prompt, response=benign.answer, harmful=False),
        ]
    return known


def _letters(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(sign for sign in folded if unicodedata.category(sign)[0] not in "CPZ")


def _rates_any_answer(judge: object) -> bool:
    if isinstance(judge, EnsembleSpec):
        return any(_rates_any_answer(one) for one in judge.judges)
    return judge == "refusal" or isinstance(judge, StrongRejectSpec)


def _built_in(name: str) -> list[Known]:
    return _parse((files("tokenbuncher.judges") / name).read_text(encoding="utf-8"), name)


def _parse(text: str, origin: str) -> list[Known]:
    known = []
    for number, line in enumerate((line for line in io.StringIO(text) if line.strip()), start=1):
        try:
            known.append(Known.model_validate_json(line))
            refuse_repeated_keys(line)
        except ValidationError as error:
            raise UserError(f"calibration {origin}, row {number}: {first_problem(error)}") from None
        except ValueError as error:
            raise UserError(f"calibration {origin}, row {number}: {error}") from None
    return known
