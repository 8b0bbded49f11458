"""Checks of this machine: packages, processors, disks."""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from tokenbuncher.core.errors import UserError
from tokenbuncher.preflight.doctor._diagnosis import Diagnosis, ok, problem, warning
from tokenbuncher.storage import user_cache

GB = 1e9
LITTLE_GB, TOO_LITTLE_GB = 10, 1
EXTRAS = {
    "registry": "register, promote, status, and runs on this machine",
    "pipelines": "compile, submit, and runs on this machine",
    "trainer": "to train and measure on this machine",
    "endpoint": "judges behind an OpenAI-compatible endpoint",
    "lm-eval": "evaluation.harness",
    "smollm2": "model.source smollm2://",
}
"""What each extra is for."""
_PIN = re.compile(r'(?P<name>[\w.-]+)(?:\[.*\])?==(?P<version>[^;\s]+)(?:; extra == "(?P<extra>.+)")?')


def check_packages() -> Iterator[Diagnosis]:
    """Python, tokenbuncher, and the packages of each extra in the version that it was made with."""
    yield ok(f"Python {platform.python_version()}, tokenbuncher {metadata.version('tokenbuncher')}")
    pins = pinned()
    yield _packages("tokenbuncher", pins[""], "every command")
    for extra, purpose in EXTRAS.items():
        yield _packages(f"tokenbuncher[{extra}]", pins[extra], purpose)


def pinned() -> dict[str, dict[str, str]]:
    """Packages and their versions by extra, as the installed distribution tells; "" is what all need."""
    pins: dict[str, dict[str, str]] = defaultdict(dict)
    for requirement in metadata.requires("tokenbuncher") or []:
        if match := _PIN.fullmatch(requirement):
            pins[match["extra"] or ""][match["name"]] = match["version"]
    return pins


def _packages(what: str, wanted: dict[str, str], purpose: str) -> Diagnosis:
    found = {name: _version(name) for name in wanted}
    missing = [name for name, version in found.items() if version is None]
    other = [
        f"{name} is {version}, not {wanted[name]}"
        for name, version in found.items()
        if version not in (None, wanted[name])
    ]
    remedy = f"pip install '{what}'"
    if other:
        return problem(f"{what}: {', '.join(other)}", remedy)
    if missing:
        return warning(f"{what} lacks {', '.join(missing)}", f"for {purpose}: {remedy}")
    return ok(f"{what}: " + ", ".join(f"{name} {version}" for name, version in wanted.items()))


def _version(package: str) -> str | None:
    """Without the build, such as +cpu; None if it is not installed."""
    try:
        return metadata.version(package).partition("+")[0]
    except metadata.PackageNotFoundError:
        return None


def check_processors(wants_gpu: bool) -> Iterator[Diagnosis]:
    """GPUs that torch can use, or else cores, memory and threads."""
    try:
        import torch
    except ImportError:
        yield warning("torch is not installed: this machine cannot train", "pip install 'tokenbuncher[trainer]'")
        return
    gpus = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    for gpu in gpus:
        yield ok(f"GPU: {gpu.name}, {gpu.total_memory / GB:.0f} GB, CUDA {torch.version.cuda}")
    if wants_gpu and not gpus:
        yield problem("the spec has model.device: cuda, and torch finds no GPU", "see nvidia-smi, or set device: auto")
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GB
    threads = os.environ.get("OMP_NUM_THREADS", "")
    what = f"{cores} CPU cores, {memory:.0f} GB memory, OMP_NUM_THREADS={threads}"
    if threads.isdigit() and 0 < int(threads) <= cores:
        yield ok(what)
    else:
        yield warning(what, "set OMP_NUM_THREADS=1: more threads than cores make small models many times slower")


def check_folder(what: str, folder: Path) -> Iterator[Diagnosis]:
    """Whether a folder can be written, or made, and how much is free there."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    what = f"{what} {folder}"
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        yield problem(f"{what} cannot be written", f"give yourself the right to write {there}, or choose another")
        return
    free = shutil.disk_usage(there).free / GB
    if free < LITTLE_GB:
        level = warning if free >= TOO_LITTLE_GB else problem
        yield level(f"{what}: only {free:.1f} GB are free", "make room, or choose another disk")
    else:
        yield ok(f"{what}: {free:.0f} GB are free")


def check_cache() -> Iterator[Diagnosis]:
    """The folder of models and files that were fetched."""
    try:
        yield from check_folder("cache", user_cache())
    except UserError as error:
        what, _, remedy = str(error).partition("; ")
        yield warning(what, f"{remedy}, unless all models and prompts are built in or local")
