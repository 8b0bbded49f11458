"""Evidence files: values that no measurement has are refused, before anything is computed of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.evidence_factory import passing_release, piece_name
from tokenbuncher.core.errors import UserError
from tokenbuncher.evidence import Record, read_evidence
from tokenbuncher.verdict import read_verdict

SAFETY = json.loads(passing_release().piece("safety").model_dump_json())


@pytest.mark.parametrize("created", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_times_at_the_ends_of_the_calendar_are_refused(created: str, tmp_path: Path) -> None:
    release = passing_release()
    verdict = {**json.loads(release.judge().model_dump_json()), "created": created}
    for name, document in (("evidence.json", {**SAFETY, "created": created}), ("verdict.json", verdict)):
        (tmp_path / name).write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(UserError, match=r"safety\.created: Input should be"):
        read_evidence(tmp_path)
    with pytest.raises(UserError, match="created: Input should be"):
        read_verdict(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("tokens", "9" * 400), ("tokens", str(2**63)), ("entropy", "1e308"), ("entropy", "1e400"), ("sample", "1.5")],
)
def test_figures_beyond_all_measure_are_refused(field: str, value: str, tmp_path: Path) -> None:
    score = {**SAFETY["base_harmful"][0], field: "here"}
    document = {**SAFETY, "base_harmful": [score, *SAFETY["base_harmful"][1:]]}
    (tmp_path / "evidence.json").write_text(json.dumps(document).replace('"here"', value), encoding="utf-8")
    with pytest.raises(UserError, match=rf"evidence.json is not valid: safety\.base_harmful\.0\.{field}: "):
        read_evidence(tmp_path)


@pytest.mark.parametrize("piece", passing_release().evidence, ids=piece_name)
def test_a_key_left_out_is_no_default(piece: Any) -> None:
    """A default would stand for something that nobody has measured: no refusal in part, made today, no look-alikes."""
    for record in records(piece):
        document = json.loads(record.model_dump_json())
        for key in document.keys() - {"schema_version", "kind"}:
            without = {name: value for name, value in document.items() if name != key}
            with pytest.raises(ValidationError, match=key):
                type(record).model_validate_json(json.dumps(without))


def records(value: Any) -> Iterator[Record]:
    """One record of each kind in a piece of evidence."""
    found: dict[type, Record] = {}
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Record):
            found.setdefault(type(one), one)
            waiting += [getattr(one, name) for name in type(one).model_fields]
        elif isinstance(one, list):
            waiting += one[:1]
    yield from found.values()
