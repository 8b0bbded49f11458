"""The process environment that every stage runs in."""

import atexit
import gc
import getpass
import io
import os
import platform
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

LIBRARIES = ("torch", "transformers", "trl", "accelerate", "peft", "datasets", "vllm", "lm-eval")
"""What figures depend on, beside this package."""
UNUSED = ("sklearn", "scipy")
"""What transformers and MLflow import if it is installed, for what no stage does."""
NO_HOME = "/nonexistent"


def speak_utf8() -> None:
    """Starts this program again in Python's UTF-8 mode, if the locale has another encoding.

    File names, output, and what libraries and child processes read and write are then UTF-8, as on other machines.
    """
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def quiet_libraries() -> None:
    """Sets one thread, no hub and no telemetry; call it before torch and transformers are imported.

    Several threads on a busy machine make small models many times slower; OMP_NUM_THREADS overrules.
    """
    os.environ.update(
        {
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "TRANSFORMERS_VERBOSITY": "error",
            "TQDM_DISABLE": "1",
            "TRL_EXPERIMENTAL_SILENCE": "1",
            "DISABLE_MLFLOW_INTEGRATION": "TRUE",
            "TOKENIZERS_PARALLELISM": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
    )
    _name_user()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # hf:// sources need it to be 0
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    lenient_output()
    # At exit the collector would go through all objects of all libraries, several times.
    atexit.register(gc.freeze)


def _name_user() -> None:
    """Gives a user without an account, as in containers, a name and a home, for which libraries ask.

    The home is one that nobody can write to; `storage.user_cache` says what to set where one is needed.
    """
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = NO_HOME
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = f"uid-{os.getuid()}"


def lenient_output() -> None:
    """Lets output take every character, in escapes if need be: one that its encoding lacks must not end a program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def swift_imports() -> Iterator[None]:
    """Lets large libraries be imported in the block in less time.

    The collector would go through what they make again and again, though nothing of it is garbage; and they find none
    of `UNUSED`, unless it was imported before, or another thread may want it. Afterwards it can be imported as ever.
    """
    hidden = [name for name in UNUSED if name not in sys.modules and threading.active_count() == 1]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type] # None: for imports, not installed
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
        for name in hidden:
            del sys.modules[name]


def installed_versions() -> dict[str, str]:
    """Versions of Python and of the installed `LIBRARIES`, by name."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
