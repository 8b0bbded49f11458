"""The environment of stages: what is hidden while large libraries are imported, and there again afterwards."""

from __future__ import annotations

import subprocess
import sys

import pytest

LIBRARIES = """
import sys
from tokenbuncher.core.environment import quiet_libraries, swift_imports

quiet_libraries()
with swift_imports():
    from transformers import AutoModelForCausalLM
    import trl.trainer.grpo_trainer
assert "sklearn" not in sys.modules, "transformers found sklearn"
import scipy.stats
assert scipy.stats.norm.cdf(0.0) == 0.5
"""
HIDDEN = """
import gc, json, sys
from tokenbuncher.core import environment

environment.UNUSED = ("colorsys", "json")
with environment.swift_imports():
    import json  # as it was before
    assert not gc.isenabled()
    try:
        import colorsys
        raise SystemExit("colorsys was not hidden")
    except ModuleNotFoundError:
        pass
import colorsys
assert gc.isenabled()
"""
AFTER_AN_ERROR = """
import gc, sys
from tokenbuncher.core import environment

environment.UNUSED = ("colorsys",)
try:
    with environment.swift_imports():
        raise ZeroDivisionError
except ZeroDivisionError:
    pass
assert "colorsys" not in sys.modules
assert gc.isenabled()
"""
BESIDE_ANOTHER_THREAD = """
import threading
from tokenbuncher.core import environment

environment.UNUSED = ("colorsys",)
done = threading.Event()
threading.Thread(target=done.wait).start()
with environment.swift_imports():
    import colorsys
done.set()
"""


@pytest.mark.parametrize(
    "program",
    [LIBRARIES, HIDDEN, AFTER_AN_ERROR, BESIDE_ANOTHER_THREAD],
    ids=["libraries", "hidden", "after-an-error", "beside-another-thread"],
)
def test_swift_imports(program: str) -> None:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=False)

    assert done.returncode == 0, done.stderr
