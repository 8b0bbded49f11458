"""Runs the tasks of a pipeline in forks of one process, which has imported once what each of them would import.

    python tests/fast_stages/forked.py SOCKET

is that process, with this folder on PYTHONPATH. Where FAST_STAGES_SERVER names its socket, a task sends it arguments,
environment and open files, and ends as the fork ends; when the task is killed, so is its fork.
"""

import contextlib
import importlib
import json
import os
import random
import select
import signal
import socket
import sys
import tempfile
import traceback

SERVER = "FAST_STAGES_SERVER"
# Not tests.evidence_factory: the time at which it is imported is that of its evidence.
IMPORTED = [
    "kfp.dsl.executor_main",
    "mlflow",
    "mlflow.artifacts",
    "mlflow.store.artifact.artifact_repository_registry",
    "mlflow.store.db.utils",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "pygal",
    "scipy.special",
    "tokenbuncher.attestation",
    "tokenbuncher.core.stage",
    "tokenbuncher.gate",
    "tokenbuncher.registry",
]
CHANNEL = "TOKENBUNCHER_EVENTS"


def run_there():
    """Runs this task in a fork of the server, and ends as the fork does."""
    files, environment = [0, 1, 2], dict(os.environ)
    if channel := environment.pop(CHANNEL, None):
        files.append(int(channel))
    task = json.dumps({"arguments": sys.orig_argv[3:], "environment": environment, "folder": os.getcwd()}).encode()
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(os.environ[SERVER])
        socket.send_fds(server, [len(task).to_bytes(8, "big")], files)
        server.sendall(task)
        status = int(server.makefile().read())
    if status < 0:
        os.kill(os.getpid(), -status)
    os._exit(status)


def serve(path):
    """Runs tasks until stdin ends."""
    _import()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for who supervises a task
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(64)
        print("ready", flush=True)
        while listener in (ready := select.select([listener, sys.stdin], [], [])[0]) and sys.stdin not in ready:
            task = listener.accept()[0]
            if os.fork() == 0:
                listener.close()
                _supervise(task)
                os._exit(0)
            task.close()


def _supervise(task):
    """Forks the task and tells how it has ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    head, files, *_ = socket.recv_fds(task, 8, 4)
    given = json.loads(task.makefile("rb").read(int.from_bytes(head, "big")))
    if (worker := os.fork()) == 0:
        _run(given, files)
    for file in files:
        os.close(file)
    ended = os.pidfd_open(worker)
    if task in select.select([task, ended], [], [])[0]:  # the task is gone
        os.kill(worker, signal.SIGKILL)
        return
    status = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    with contextlib.suppress(BrokenPipeError):
        task.sendall(str(status).encode())


def _run(given, files):
    for place, file in enumerate(files[:3]):
        os.dup2(file, place)
    sys.stdout, sys.stderr = (open(n, "w", encoding="utf-8", closefd=False, buffering=1) for n in (1, 2))  # noqa: SIM115
    os.environ.clear()
    os.environ.update(given["environment"])
    if len(files) > 3:
        os.environ[CHANNEL] = str(files[3])
    os.chdir(given["folder"])
    sys.argv = ["executor_main", *given["arguments"]]
    tempfile.tempdir = None
    random.seed()
    status = 1
    try:
        sys.modules["kfp.dsl.executor_main"].executor_main()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def _import():
    os.environ["_KFP_RUNTIME"] = "true"  # as in a task
    importlib.import_module("tokenbuncher.core.environment").quiet_libraries()
    for name in IMPORTED:
        importlib.import_module(name)


if __name__ == "__main__":
    serve(sys.argv[1])
