"""Two processes that train together give what one gives."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch.distributed
from safetensors.torch import load_file

from tests.cluster import train_together
from tokenbuncher.core.errors import UserError
from tokenbuncher.evidence import read_evidence
from tokenbuncher.settings import parse_spec
from tokenbuncher.training.arguments import trainer_arguments

SCRIPT = Path(train_together.__file__)
ALGORITHMS = ["grpo", "rloo", "reinforce-pp", "ppo", "dpo", "dpo-offline", "entropy-seeking", "sft"]

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="this build of torch has no gloo",
)


def launched(processes, arguments):
    """Runs the script under torchrun."""
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    return subprocess.run(
        [sys.executable, *launcher, str(SCRIPT), *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=400,
        cwd=Path(__file__).parents[2],
    )


def forked(processes, arguments):
    """Runs the script in forks of a process that has imported once what it needs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([train_together.__name__])
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with TemporaryDirectory() as scratch:
        outputs = [Path(scratch) / str(rank) for rank in range(processes)]
        workers = [
            context.Process(
                target=train_together.run_as,
                args=(rank, processes, port),
                kwargs={"arguments": arguments, "output": output},
            )
            for rank, output in enumerate(outputs)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        told = "".join(output.read_text(encoding="utf-8") for output in outputs)
    return subprocess.CompletedProcess(arguments, max(abs(worker.exitcode) for worker in workers), told, "")


@pytest.fixture(scope="module")
def train(tiny_spec, organism_data, organism_base, tmp_path_factory):
    """Defends and attacks in so many processes; gives the folder of the results."""

    def run(processes, *arguments, algorithms=ALGORITHMS, folder=None, start=forked):
        folder = folder or tmp_path_factory.mktemp("together")
        if not (folder / "spec.yaml").exists():
            suite = [{"algorithm": name, "steps": 2, "prompts_per_step": 4} for name in algorithms]
            spec = parse_spec(
                tiny_spec.to_yaml(),
                [f"attacks.suite={suite}", "output.checkpoint_every=2", f"output.root={folder / 'runs'}"],
            )
            (folder / "spec.yaml").write_text(spec.to_yaml(), encoding="utf-8")
            (folder / "data").symlink_to(organism_data)
            (folder / "base").symlink_to(organism_base)
        done = start(processes, [str(folder), *arguments])
        return folder, done

    return run


@pytest.fixture(scope="module")
def fixed(train):
    """One process and two that learnt from the same rollouts."""
    results = [train(processes, "--fixed") for processes in (1, 2)]
    for _, done in results:
        assert done.returncode == 0, done.stdout + done.stderr
    return [folder for folder, _ in results]


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def close(one, two, relative, absolute=1e-5):
    assert [row["step"] for row in one] == [row["step"] for row in two]
    for a, b in zip(one, two, strict=True):
        for figure in ("loss", "entropy", "reward", "grad_norm", "anchor_kl", "kl"):
            if figure in a:
                assert b[figure] == pytest.approx(a[figure], rel=relative, abs=absolute), (figure, a, b)


def test_the_defence_learns_the_same_from_the_same_rollouts(fixed):
    one, two = (rows_of(folder / "candidate.steps.jsonl") for folder in fixed)
    close(one[:1], two[:1], 1e-5)
    close(one, two, 1e-3)
    weights = [load_file(folder / "candidate" / "model.safetensors") for folder in fixed]
    for name, tensor in weights[0].items():
        assert torch.allclose(tensor, weights[1][name], atol=1e-4), name


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_attack_learns_and_counts_the_same_from_the_same_rollouts(fixed, algorithm):
    one, two = (rows_of(folder / f"{algorithm}-1000" / "control.steps.jsonl") for folder in fixed)
    close(one[:1], two[:1], 1e-5)
    close(one, two, 1e-2)
    ones, twos = (read_evidence(folder / f"{algorithm}-1000") for folder in fixed)
    for arm in ("control_arm", "candidate_arm"):
        a, b = getattr(ones, arm), getattr(twos, arm)
        assert (a.steps_run, a.steps_to_break, a.rollouts, a.tokens, a.first_compliant_rollout) == (
            b.steps_run, b.steps_to_break, b.rollouts, b.tokens, b.first_compliant_rollout
        )  # fmt: skip
        assert [point.step for point in a.curve] == [point.step for point in b.curve]
        assert len(a.scores) == len(b.scores)


def test_with_rollouts_of_their_own_two_processes_count_as_many(train):
    results = [train(processes, algorithms=["grpo"], start=start) for processes, start in ((1, forked), (2, launched))]
    arms = []
    for folder, done in results:
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("control: step 0") == 1, "the first process alone speaks"
        assert {path.name for path in folder.iterdir()} >= {"candidate", "candidate.steps.jsonl", "grpo-1000"}
        assert not (folder / "runs").exists() or not list((folder / "runs").iterdir()), "nothing is left behind"
        arms.append(read_evidence(folder / "grpo-1000").control_arm)
    one, two = arms
    assert (one.steps_run, one.rollouts) == (two.steps_run, two.rollouts)
    assert two.tokens == pytest.approx(one.tokens, rel=0.15)
    assert one.curve[0] == two.curve[0], "before any step both measure the very same model"


def test_two_processes_go_on_from_their_checkpoint(train, fixed):
    folder, done = train(2, "--fixed", "--stop-at", "3", algorithms=["grpo"])
    assert done.returncode != 0
    assert not (folder / "candidate").exists()
    folder, done = train(2, "--fixed", folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "going on from checkpoint-2" in done.stdout
    assert rows_of(folder / "candidate.steps.jsonl") == rows_of(fixed[1] / "candidate.steps.jsonl")


def test_a_batch_that_cannot_be_shared_out_is_refused(monkeypatch):
    for name, value in {"WORLD_SIZE": "3", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="4 prompts in a step cannot be shared out among 3 processes"):
        trainer_arguments(seed=0, steps=1, batch=16, learning_rate=1e-4, group=4)
