"""Runs on each node of a TrainJob: fetches inputs, starts the processes, publishes the output.

    python -m tokenbuncher.training.cluster.node attack --spec=URI --data=URI --base=URI --candidate=URI --key=K \\
        --output=URI

Kubeflow Trainer tells by its PET_ variables which node this is and where the first one is.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tokenbuncher.core.exits import exiting
from tokenbuncher.core.log import logging_to, plain_handlers
from tokenbuncher.settings import ComputeSpec, load_spec
from tokenbuncher.storage import publish, resolve

SPEC = "spec.yaml"
RESULT = "result"


def main() -> None:
    """Runs the stage on this node and exits with its status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("stage", choices=["defend", "attack"])
    for option in ("spec", "data", "base", "candidate"):
        parser.add_argument(f"--{option}", metavar="URI")
    parser.add_argument("--key")
    parser.add_argument("--output", metavar="URI", required=True)
    given = vars(parser.parse_args())
    stage, key, output = given.pop("stage"), given.pop("key"), given.pop("output")
    with exiting(), logging_to(*plain_handlers()):
        inputs = {option: resolve(uri, Path("inputs")) for option, uri in given.items() if uri}
        folder = inputs.pop("spec")
        compute = load_spec(folder / SPEC).compute
        command = [
            *launcher(compute, os.environ, Path("accelerate.json")),
            str(Path(sys.executable).with_name("tokenbuncher")),
            stage,
            *(["--key", key] if key else []),
            *(word for option, path in inputs.items() for word in (f"--{option}", str(path))),
            *("--spec", str(folder / SPEC), "--out", f"output/{RESULT}"),
        ]
        status = run(command)
        if status == 0 and _node(os.environ) == "0":
            publish(Path("output"), output)
        raise SystemExit(status)


def launcher(compute: ComputeSpec, environment: Mapping[str, str], config: Path) -> list[str]:
    """The launcher that runs a command as this node's share of the processes.

    Args:
        compute: The compute section of the spec, with the number of processes and the accelerate configuration.
        environment: Environment of this node.
        config: File to which the configuration for accelerate is written.
    """
    address, port = environment.get("PET_MASTER_ADDR", "127.0.0.1"), environment.get("PET_MASTER_PORT", "29400")
    if compute.accelerate:
        config.write_text(json.dumps(compute.accelerate), encoding="utf-8")
        return [
            *(sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)),
            *("--num_machines", str(compute.nodes), "--num_processes", str(compute.nodes * compute.processes)),
            *("--machine_rank", _node(environment), "--main_process_ip", address, "--main_process_port", port),
        ]
    if compute.nodes * compute.processes == 1:
        return [sys.executable]
    return [
        *(sys.executable, "-m", "torch.distributed.run"),
        *("--nnodes", str(compute.nodes), "--nproc-per-node", str(compute.processes)),
        *("--node-rank", _node(environment), "--master-addr", address, "--master-port", port),
    ]


def run(command: list[str]) -> int:
    """Runs a command to its end; a container's first process has to pass SIGTERM on itself."""
    child = subprocess.Popen(command)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    status = child.wait()
    return status if status >= 0 else 128 - status


def _node(environment: Mapping[str, str]) -> str:
    return environment.get("PET_NODE_RANK", "0")


if __name__ == "__main__":
    main()
