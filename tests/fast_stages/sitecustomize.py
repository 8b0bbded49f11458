"""Replaces the stages that train or evaluate a model by ones that take no time; Python loads it by this name.

With this folder on PYTHONPATH every process of a pipeline under test gets them; register, gate and promote stay
real. The candidate holds, unless its spec has no defence. MISHAP=`stage what` makes a stage raise a UserError
(`error`), raise another exception (`bug`), kill itself (`kill`), find the disk full (`full`), never end (`hang`), or
train for ever, with steps that can be saved (`train`) or never end (`stuck`).

Where FAST_STAGES_SERVER is set, the tasks of a pipeline are run as `forked` says.
"""

import json
import os
import signal
import sys
import time
import types
from pathlib import Path

if "FAST_STAGES_SERVER" in os.environ and sys.orig_argv[1:3] == ["-m", "kfp.dsl.executor_main"]:
    import forked

    forked.run_there()

STAGES = {
    "inputs.fetch": ["fetch_model"],
    "inputs": ["prepare_data"],
    "defence": ["defend"],
    "attacks": ["attack", "controls"],
    "evaluation": ["evaluate_safety", "evaluate_utility"],
}


def fetch_model(spec, out):
    _write(out, "fetch-model", "model.safetensors", "undefended")


def prepare_data(spec, out):
    _write(out, "prepare-data", "manifest.json", "{}")


def defend(spec, data, base, out, steps):
    from tests.evidence_factory import defence_rows

    assert (data / "manifest.json").is_file()
    weights = (base / "model.safetensors").read_text(encoding="utf-8")
    _write(out, "defend", "model.safetensors", weights if spec.defence.recipe == "none" else "hardened")
    rows = defence_rows() if spec.defence.certain_refusal else []
    _write(steps, "step log", "defence.steps.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def controls(spec, data, base, out):
    _write(out, "controls", "controls.json", "{}")


def attack(spec, key, data, base, candidate, out):
    from tests.evidence_factory import CANDIDATE, attack_evidence, broken_arm

    evidence = attack_evidence(spec, key)
    if spec.defence.recipe == "none":
        evidence = evidence.model_copy(update={"candidate_arm": broken_arm(spec, model=CANDIDATE)})
    _write(out, f"attack {key}", "evidence.json", _about(evidence, base, candidate))


def evaluate_safety(spec, data, base, candidate, out):
    from tests.evidence_factory import safety_evidence

    _write(out, "evaluate-safety", "evidence.json", _about(safety_evidence(spec), base, candidate))


def evaluate_utility(spec, data, base, candidate, out):
    from tests.evidence_factory import utility_evidence

    _write(out, "evaluate-utility", "evidence.json", _about(utility_evidence(spec), base, candidate))


def _about(evidence, base, candidate):
    """The factory's evidence, bound to the models at hand."""
    from tests.evidence_factory import rebound
    from tokenbuncher.core.files import folder_digest

    return rebound(evidence, *map(folder_digest, (candidate, base))).model_dump_json()


def _write(out, stage, name, text):
    from tokenbuncher.core.files import whole_folder

    with whole_folder(out) as folder:
        print("at work", flush=True)
        print("noise of a library", file=sys.stderr)
        (folder / name).write_text(text, encoding="utf-8")
        sufferer, _, what = os.environ.get("MISHAP", "").rpartition(" ")
        if sufferer == stage:
            _suffer(what)
        print("all well", flush=True)


def _suffer(what):
    from tokenbuncher.core.errors import UserError

    match what:
        case "error":
            raise UserError("no good\nmend it")
        case "bug":
            raise ZeroDivisionError("by nothing")
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "full":
            Path("/dev/full").write_text("too much", encoding="utf-8")
        case "hang":
            signal.pause()
        case "train" | "stuck":
            _train(what == "stuck")


def _train(stuck):
    from tokenbuncher.core.interrupts import finishing_steps

    with finishing_steps() as asked_to_stop:
        print("in training", flush=True)
        while stuck or not asked_to_stop():
            time.sleep(0.05)
    raise KeyboardInterrupt("saved at step 3 of 8")


for module, names in STAGES.items():
    stand_in = types.ModuleType(f"tokenbuncher.{module}")
    stand_in.__path__ = [str(Path(__file__).parents[2].joinpath("tokenbuncher", *module.split(".")))]
    for name in names:
        setattr(stand_in, name, globals()[name])
    sys.modules[f"tokenbuncher.{module}"] = stand_in
