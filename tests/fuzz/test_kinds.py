"""No file that is read brings the program down, and none makes a PASS.

A hundred inputs of each kind; `python benchmarks/fuzz.py --inputs 100000` gives as many as wanted.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.kind import MOST_SECONDS, timed
from tests.fuzz.kinds import KINDS

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "100"))


@pytest.mark.parametrize("name", KINDS)
def test_no_input_is_more_than_refused(name: str, tmp_path: Path) -> None:
    with KINDS[name](tmp_path) as kind:

        @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
        @given(kind.inputs)
        def check(given: Any) -> None:
            _, seconds = timed(kind, given)
            assert seconds < MOST_SECONDS

        check()
