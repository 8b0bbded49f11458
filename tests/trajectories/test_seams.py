"""What tokenbuncher overrides or calls of TRL's and transformers' private parts is what was recorded.

An upgrade that touches one of them fails here by its name, whether or not a figure of a trajectory changes.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import json
import pkgutil
import re
import textwrap
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from transformers import Trainer

import tokenbuncher
from tests.trajectories.trajectory import RECORD

FILE = Path(__file__).with_name("recorded") / "seams" / "seams.json"
LIBRARIES = ("trl", "transformers")
ROOMS = ("attacks", "builtin", "defence", "evaluation", "judges", "models", "training")
"""Those that have models in their hands."""

GRPO, BASE = "trl.trainer.grpo_trainer:GRPOTrainer", "transformers.trainer:Trainer"
SEAMS = {
    f"{GRPO}._generate_and_score_completions": "RolloutTrainer and TokenBuncherTrainer add to its batch",
    f"{GRPO}._calculate_rewards": "RolloutTrainer keeps the rewards, which it gathers from all processes",
    f"{GRPO}._compute_loss": "every trainer of rollouts goes on from its loss, or has one of its own",
    f"{GRPO}._get_per_token_logps_and_entropies": "RolloutTrainer.log_probs calls it",
    f"{GRPO}._prepare_inputs": "calls _generate_and_score_completions once for all epochs, and shuffles the batch",
    f"{GRPO}.training_step": "counts the updates; PPO's critic learns beside it",
    f"{GRPO}.log": "takes the means of what is appended to _metrics",
    f"{GRPO}._save_checkpoint": "PPOTrainer saves its critic after it",
    f"{GRPO}._load_optimizer_and_scheduler": "PPOTrainer loads its critic after it",
    f"{GRPO}._generate_single_turn": "tests put rollouts of a table in its place",
    "trl.trainer.rloo_trainer:RLOOTrainer._generate_single_turn": "tests put rollouts of a table in its place",
    "trl.trainer.dpo_trainer:DPOTrainer._prepare_dataset": "TokenPairTrainer leaves its dataset as it is",
    "trl.trainer.utils:RepeatSampler.__iter__": "Checkpoints repeats its draws on a resume",
    f"{BASE}._prepare_inputs": "what GRPOTrainer's stands in for; PPO takes its batch before the critic learns",
    f"{BASE}._save_checkpoint": "PPOTrainer saves its critic after it",
    f"{BASE}._load_optimizer_and_scheduler": "PPOTrainer loads its critic after it",
    f"{BASE}.training_step": "PPO's critic learns beside it",
    f"{BASE}.compute_loss": "RefusalTrainer has a loss of its own",
    f"{BASE}.create_scheduler": "RefusalTrainer's constraint sets the learning rate",
    f"{BASE}.log": "RefusalTrainer adds its figures",
    "transformers.generation.configuration_utils:GenerationConfig._get_default_generation_params": (
        "generation.py writes what it leaves unset"
    ),
    "transformers.utils.chat_template_utils:_compile_jinja_template": "templates.py compiles chat templates by it",
}
"""Each with what depends on it."""

ATTRIBUTES = {"_metrics": "trl.trainer.grpo_trainer:GRPOTrainer.__init__"}
"""Private attributes, and the method that makes them."""

OTHERS = {"_filters": "lm-eval", "_replace": "Python's named tuples"}
"""Private names, by their looks, that are not of TRL or transformers."""


def resolved(name: str) -> Callable[..., Any]:
    """The function of that name."""
    module, _, path = name.partition(":")
    found = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found


def tree(function: Callable[..., Any]) -> ast.AST:
    return ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))


def described(name: str) -> dict[str, str]:
    """A function's signature, and the digest of its source but for comments and layout."""
    library = name.partition(".")[0]
    function = resolved(name)
    return {
        "version": f"{library} {version(library)}",
        "signature": str(inspect.signature(function)),
        "source": hashlib.sha256(ast.dump(tree(function)).encode()).hexdigest(),
    }


@pytest.fixture(scope="module")
def recorded(recording):
    if recording:
        FILE.parent.mkdir(exist_ok=True)
        seams = {name: described(name) for name in SEAMS}
        FILE.write_text(json.dumps(seams, indent=2) + "\n", encoding="utf-8")
    return json.loads(FILE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", SEAMS)
def test_what_is_overridden_or_called_has_not_changed(name, recorded):
    try:
        now = described(name)
    except (AttributeError, ImportError) as error:
        pytest.fail(f"{name} is no longer there: {error}. It matters because: {SEAMS[name]}.", pytrace=False)
    before = recorded[name]
    changed = [
        f"{what} was {before[what]}, is {now[what]}" for what in ("signature", "source") if before[what] != now[what]
    ]
    if changed:
        pytest.fail(
            f"{name} has changed from {before['version']} to {now['version']}: {'; '.join(changed)}.\n"
            f"It matters because: {SEAMS[name]}.\n"
            f"Compare both versions, mend what depends on it, and record it anew: {RECORD}",
            pytrace=False,
        )


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_private_attributes_are_still_made(attribute):
    made = {
        target.attr
        for node in ast.walk(tree(resolved(ATTRIBUTES[attribute])))
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Attribute)
    }
    assert attribute in made, f"{ATTRIBUTES[attribute]} no longer makes {attribute}, which our trainers read and write"


def our_trainers() -> Iterator[type[Trainer]]:
    for module in pkgutil.walk_packages([str(Path(tokenbuncher.__file__).parent)], "tokenbuncher."):
        if module.name.startswith(("tokenbuncher.attacks", "tokenbuncher.defence", "tokenbuncher.training")):
            for found in vars(importlib.import_module(module.name)).values():
                if isinstance(found, type) and issubclass(found, Trainer) and found.__module__ == module.name:
                    yield found


def is_theirs(owner: type) -> bool:
    return owner.__module__.partition(".")[0] in LIBRARIES


def test_every_override_of_a_trainer_is_among_them():
    overridden = {
        f"{owner.__module__}:{owner.__qualname__}.{name}"
        for trainer in our_trainers()
        for name in vars(trainer)
        for owner in trainer.__mro__
        if is_theirs(owner) and callable(vars(owner).get(name)) and name != "__init__"
    }
    assert overridden, "no trainer of ours was found"
    missing = sorted(overridden - SEAMS.keys())
    assert not missing, (
        f"overridden, but not in SEAMS of {Path(__file__).name}: {missing}; add them and record: {RECORD}"
    )


def parsed() -> list[ast.AST]:
    """Every node of the rooms' source."""
    files = [path for room in ROOMS for path in (Path(tokenbuncher.__file__).parent / room).rglob("*.py")]
    return [node for path in files for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]


def imported(node: ast.AST) -> set[str]:
    """What a node imports from the libraries."""
    if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in LIBRARIES:
        return {alias.name for alias in node.names}
    return set()


def test_every_private_name_that_is_used_is_among_them():
    nodes = parsed()
    used = {node.attr for node in nodes if isinstance(node, ast.Attribute)}.union(*map(imported, nodes))
    ours = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    ours |= {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    known = {re.split("[.:]", name)[-1] for name in SEAMS} | ATTRIBUTES.keys() | OTHERS.keys()
    missing = sorted(name for name in used - ours - known if re.match("_[a-z]", name))
    assert not missing, f"private names of others that {Path(__file__).name} does not know: {missing}"
